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
from adaptrag.console.charts import band_chart, markers, stacked_bars
from adaptrag.console.dashboard import PERIODS, Period, together
from adaptrag.console.figures import mean_rewards
from agents.classifier import CATEGORIES
from agents.models import AgentVariant
from rewards.leaderboard import ENOUGH, LeaderboardRow, leaderboard
from rewards.models import Pull, RoutingPolicy
from rewards.rollup.read import log_series
from rewards.selectors import active_policy, change_markers
from rewards.services import learning_reset

LONGEST = Period(key="all", title="90 days", step=timedelta(days=3), buckets=30)  # what the charts show of all that counts


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table with the address of the interactions behind it."""

    row: LeaderboardRow
    url: str


def leaderboard_page(request: HttpRequest) -> HttpResponse:
    """Per category and overall: mean reward with its interval, n, traffic, probability of being best."""
    if not request.user.has_perm("rewards.view_banditarm"):
        raise PermissionDenied
    period = PERIODS.get(request.GET.get("period", ""))
    since = period.starts(timezone.now())[0] if period else None
    category = request.GET.get("category", "")
    category = category if category in CATEGORIES else ""
    scopes: dict[str | None, list[Line]] = {}
    for row in leaderboard(since=since):
        scopes.setdefault(row.category, []).append(Line(row=row, url=_interactions(row, since)))
    policy = active_policy()
    context = {
        **admin.site.each_context(request),
        "title": "Leaderboard",
        "overall": scopes.pop(None, []),
        "categories": scopes,
        "periods": [("all", "all that counts"), *((one.key, one.title) for one in PERIODS.values())],
        "period": period.key if period else "all",
        "category": category,
        "choices": CATEGORIES,
        **_charts(period or LONGEST, category),
        "policy": policy,
        "enough": ENOUGH,
        "refusal": _refusal(request),
    }
    return TemplateResponse(request, "admin/console/leaderboard.html", context)


def _charts(period: Period, category: str) -> dict[str, Any]:
    """Reward with its band and the agents' shares of the traffic over time, with what operators changed meanwhile."""
    starts = period.starts(timezone.now())
    labels = [period.label(start) for start in starts]
    series = log_series(starts, category=category or None)
    names = dict(AgentVariant.objects.filter(pk__in={pk for one in series for pk in one}).values_list("pk", "name"))
    buckets = [together(variants) for variants in series]
    rewards = mean_rewards([one.total for one in buckets], [one.n for one in buckets])
    shares: dict[str, list[float]] = {name: [0.0] * len(starts) for name in sorted(set(names.values()))}
    for index, variants in enumerate(series):
        for pk, sums in variants.items():
            shares[names[pk]][index] += sums.interactions / max(buckets[index].interactions, 1)
    shares = {name: values for name, values in shares.items() if any(values)}
    marks = markers(change_markers(starts[0]), starts)
    marked = {"markers": [mark.as_dict() for mark in marks]}
    return {
        "chart_title": period.title,
        "reward_chart": band_chart(labels, rewards) | marked,
        "reward_table": [(label, one) for label, one in zip(labels, rewards, strict=True) if one.n],
        "share_chart": stacked_bars(labels, shares) | marked,
        "share_agents": list(shares),
        "share_table": [
            (label, values) for label, values in zip(labels, zip(*shares.values(), strict=True), strict=True) if any(values)
        ]
        if shares
        else [],
        "marks": marks,
    }


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
