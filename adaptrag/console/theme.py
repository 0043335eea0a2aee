"""How the admin looks and what its sidebar holds (django-unfold's settings)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _static(path: str) -> Callable[[HttpRequest], str]:
    return lambda request: static(path)


def _page(title: str, icon: str, url_name: str, **extra: Any) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse_lazy(url_name), **extra}


def _rows(title: str, icon: str, model: str) -> dict[str, Any]:
    """The list of a model ("app_label.model"), for those who may view it."""
    app_label, name = model.split(".")
    return _page(
        title,
        icon,
        f"admin:{app_label}_{name}_changelist",
        permission=lambda request: request.user.has_perm(f"{app_label}.view_{name}"),
    )


def _group(title: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "separator": True, "items": list(items)}


# A petrol hue; 600 on white and white on 600 keep a contrast of at least 4.5 (WCAG AA).
PRIMARY = {
    "50": "oklch(97.6% .012 200)",
    "100": "oklch(94.6% .028 200)",
    "200": "oklch(89.5% .052 200)",
    "300": "oklch(82% .085 200)",
    "400": "oklch(74% .105 200)",
    "500": "oklch(64% .108 200)",
    "600": "oklch(51% .088 205)",
    "700": "oklch(44.5% .077 206)",
    "800": "oklch(38.5% .064 208)",
    "900": "oklch(33% .052 210)",
    "950": "oklch(24.5% .042 212)",
}

UNFOLD = {
    "SITE_TITLE": "AdaptRAG",
    "SITE_HEADER": "AdaptRAG",
    "SITE_SUBHEADER": "Agents that learn from feedback",
    "SITE_URL": "/",
    "SITE_ICON": _static("console/logo.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _static("console/logo.svg")}],
    "SHOW_BACK_BUTTON": True,
    "BORDER_RADIUS": "8px",
    "DASHBOARD_CALLBACK": "adaptrag.console.dashboard.dashboard_callback",
    "STYLES": [_static("console/admin.css")],
    "SCRIPTS": [_static("console/admin.js")],
    "COMMAND": {"search_models": ["agents.agentvariant", "agents.collection", "agents.document"]},
    "COLORS": {"primary": PRIMARY},
    "SIDEBAR": {
        "show_search": True,
        "command_search": True,
        "navigation": [
            {
                "items": [
                    _page("Home", "space_dashboard", "admin:index"),
                    _page("Chat", "forum", "chat", active=lambda request: False),
                ]
            },
            _group(
                "What happened",
                _rows("Interactions", "question_answer", "rewards.interaction"),
                _rows("Rewards", "thumbs_up_down", "rewards.reward"),
            ),
            _group(
                "What was learned",
                _page(
                    "Leaderboard",
                    "leaderboard",
                    "admin_leaderboard",
                    permission=lambda request: request.user.has_perm("rewards.view_banditarm"),
                ),
                _page(
                    "Improve",
                    "auto_fix_high",
                    "admin_improve",
                    permission=lambda request: request.user.has_perm("rewards.view_interaction"),
                ),
                _rows("Arms", "casino", "rewards.banditarm"),
                _rows("Priors", "balance", "rewards.priorreward"),
                _rows("Routing policies", "alt_route", "rewards.routingpolicy"),
                _rows("Traffic limits", "tune", "rewards.agentlimit"),
                _rows("Pinned categories", "push_pin", "rewards.categorypin"),
            ),
            _group(
                "What can answer",
                _rows("Agents", "smart_toy", "agents.agentvariant"),
                _rows("Promotions", "upgrade", "rewards.promotiondecision"),
                _rows("Collections", "library_books", "agents.collection"),
                _rows("Documents", "description", "agents.document"),
                _rows("Index builds", "deployed_code", "agents.indexbuild"),
            ),
            _group(
                "How models get better",
                _rows("Improvements", "autorenew", "loop.looprun"),
                _rows("Trainings", "model_training", "training.trainingrun"),
                _rows("Quantizations", "compress", "training.quantizationreport"),
                _rows("Datasets", "dataset", "training.sftdataset"),
                _rows("Distillations", "school", "training.distillationrun"),
                _rows("Teacher budgets", "payments", "training.teacherbudget"),
                _rows("Artifacts", "inventory_2", "agents.modelartifact"),
            ),
            _group(
                "How we know",
                _rows("Eval runs", "science", "evals.evalrun"),
                _rows("Eval sets", "quiz", "evals.evalset"),
                _rows("Experiments", "splitscreen", "evals.experiment"),
                _rows("What if", "query_stats", "evals.policyestimate"),
                _page(
                    "Judges",
                    "gavel",
                    "admin_judges",
                    permission=lambda request: request.user.has_perm("evals.view_evalrun"),
                ),
            ),
            _group(
                "Operation",
                _rows("Jobs", "progress_activity", "common.job"),
                _rows("API keys", "key", "api.apikey"),
                _rows("Users", "person", "auth.user"),
                _rows("Groups", "group", "auth.group"),
            ),
        ],
    },
}
