"""The leaderboard page: who does how well at what, and the way back to the priors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from rewards.leaderboard import ENOUGH, LeaderboardRow, leaderboard
from rewards.models import Pull, RoutingPolicy
from rewards.selectors import active_policy
from rewards.services import learning_reset

PERIODS = {"all": ("all that counts", None), "30d": ("30 days", 30), "7d": ("7 days", 7), "24h": ("24 hours", 1)}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table with the address of the interactions behind it."""

    row: LeaderboardRow
    url: str


def leaderboard_page(request: HttpRequest) -> HttpResponse:
    """Per category and overall: mean reward with its interval, n, traffic, probability of being best."""
    if not request.user.has_perm("rewards.view_banditarm"):
        raise PermissionDenied
    key = request.GET.get("period", "all")
    key = key if key in PERIODS else "all"
    days = PERIODS[key][1]
    since = timezone.now() - timedelta(days=days) if days else None
    scopes: dict[str | None, list[Line]] = {}
    for row in leaderboard(since=since):
        scopes.setdefault(row.category, []).append(Line(row=row, url=_interactions(row, since)))
    policy = active_policy()
    context = {
        **admin.site.each_context(request),
        "title": "Leaderboard",
        "overall": scopes.pop(None, []),
        "categories": scopes,
        "periods": [(one, title, one == key) for one, (title, _) in PERIODS.items()],
        "policy": policy,
        "enough": ENOUGH,
        "refusal": _refusal(request),
    }
    return TemplateResponse(request, "admin/console/leaderboard.html", context)


def reset_page(request: HttpRequest) -> HttpResponse:
    """Ask, then let what was learned so far count no more."""
    refusal = _refusal(request)
    pulls = Pull.objects.count()
    question = Question(
        title="Go back to the priors?",
        effects=[
            f"The {pulls:,} rated answers so far no longer count: every arm starts again from its priors.",
            "Interactions and ratings stay in the log, and the history of the policy says who reset it and when.",
            "Answers given before now can still be rated, but they move nothing.",
        ],
        button="Reset to the priors",
        refusal=refusal,
    )
    back = reverse("admin_leaderboard")
    policy_admin = admin.site.get_model_admin(RoutingPolicy)
    if page := confirmation.ask(request, question, back=back, admin=policy_admin):
        return page
    policy = learning_reset(user=request.user)
    LogEntry.objects.log_actions(request.user.pk, [policy], CHANGE, change_message="Learning reset to the priors.")
    messages.success(request, "Every arm starts again from its priors.")
    return redirect(back)


def _refusal(request: HttpRequest) -> str:
    """Why this user can't reset, if so."""
    if not request.user.has_perm("rewards.change_routingpolicy"):
        return "Resetting takes the permission to change routing policies."
    return ""


def _interactions(row: LeaderboardRow, since: Any) -> str:
    """The interactions behind a row."""
    chosen = {"agent": row.agent}
    if row.category:
        chosen["category"] = row.category
    if since:
        local = timezone.localtime(since)
        chosen |= {"created_at_from_0": f"{local:%Y-%m-%d}", "created_at_from_1": f"{local:%H:%M:%S}"}
    return f"{reverse('admin:rewards_interaction_changelist')}?{urlencode(chosen)}"
