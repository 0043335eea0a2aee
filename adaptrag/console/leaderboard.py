"""The leaderboard page: who does how well at what, and the way back to the priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
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
from django.utils.dateparse import parse_date

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


MOST_BARS = 31


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The time that the page is about. since, until: of the tables, None for no bound. starts: of the charts' buckets, the last
    of which ends at `until`. query: what chose it, for links. problem: why what was asked for can't be shown."""

    title: str
    since: datetime | None
    until: datetime | None
    starts: list[datetime]
    labels: list[str]
    query: dict[str, str]
    problem: str = ""

    @property
    def key(self) -> str:
        return self.query.get("period", "")

    @property
    def address(self) -> str:
        return urlencode(self.query)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table with the address of the interactions behind it."""

    row: LeaderboardRow
    url: str


def leaderboard_page(request: HttpRequest) -> HttpResponse:
    """Per category and overall: mean reward with its interval, n, traffic, probability of being best."""
    if not request.user.has_perm("rewards.view_banditarm"):
        raise PermissionDenied
    shown = _shown(request.GET)
    category = request.GET.get("category", "")
    category = category if category in CATEGORIES else ""
    scopes: dict[str | None, list[Line]] = {}
    for row in leaderboard(since=shown.since, until=shown.until):
        scopes.setdefault(row.category, []).append(Line(row=row, url=_interactions(row, shown)))
    policy = active_policy()
    context = {
        **admin.site.each_context(request),
        "title": "Leaderboard",
        "overall": scopes.pop(None, []),
        "categories": scopes,
        "periods": [("all", "all that counts"), *((one.key, one.title) for one in PERIODS.values())],
        "shown": shown,
        "days": {name: request.GET.get(name, "") for name in ("from", "to")},
        "category": category,
        "choices": CATEGORIES,
        **_charts(shown, category),
        "policy": policy,
        "enough": ENOUGH,
        "refusal": _refusal(request),
    }
    return TemplateResponse(request, "admin/console/leaderboard.html", context)


def _shown(asked: Mapping[str, str]) -> Shown:
    """The days from `from` to `to`, else the named period, else all that counts."""
    if not (asked.get("from") or asked.get("to")):
        return _named(asked.get("period", ""))
    days = {name: _day(asked[name]) for name in ("from", "to") if asked.get(name)}
    if None in days.values():
        return replace(_named(""), problem="From and To are days such as 2026-11-22. All that counts is shown.")
    last = days.get("to") or timezone.localdate()
    first = days.get("from") or last - timedelta(days=LONGEST.buckets * LONGEST.step.days - 1)
    if first > last:
        return replace(_named(""), problem=f"{first} is later than {last}. All that counts is shown.")
    count = (last - first).days + 1
    hourly = count <= 2
    step = timedelta(hours=1) if hourly else timedelta(days=-(-count // MOST_BARS))
    begin, end = (timezone.make_aware(datetime.combine(day, time())) for day in (first, last + timedelta(days=1)))
    starts = [begin + step * number for number in range(-(-(end - begin) // step))]
    return Shown(
        title=f"{first} to {last}",
        since=begin if "from" in days else None,
        until=end if "to" in days else None,
        starts=starts,
        labels=[f"{start.day} {start:%b}, {start:%H}:00" if hourly else f"{start.day} {start:%b}" for start in starts],
        query={name: str(day) for name, day in days.items()},
    )


def _day(text: str) -> date | None:
    try:
        day = parse_date(text)
    except ValueError:  # a day that no calendar has
        return None
    return day if day and 2000 <= day.year < 2200 else None


def _named(key: str) -> Shown:
    period = PERIODS.get(key)
    chart = period or LONGEST
    starts = chart.starts(timezone.now())
    return Shown(
        title=chart.title,
        since=starts[0] if period else None,
        until=None,
        starts=starts,
        labels=[chart.label(start) for start in starts],
        query={"period": chart.key},
    )


def _charts(shown: Shown, category: str) -> dict[str, Any]:
    """Reward with its band and the agents' shares of the traffic over time, with what operators changed meanwhile."""
    starts, labels = shown.starts, shown.labels
    series = log_series(starts, shown.until, category=category or None)
    names = dict(AgentVariant.objects.filter(pk__in={pk for one in series for pk in one}).values_list("pk", "name"))
    buckets = [together(variants) for variants in series]
    rewards = mean_rewards([one.total for one in buckets], [one.n for one in buckets])
    shares: dict[str, list[float]] = {name: [0.0] * len(starts) for name in sorted(set(names.values()))}
    for index, variants in enumerate(series):
        for pk, sums in variants.items():
            shares[names[pk]][index] += sums.interactions / max(buckets[index].interactions, 1)
    shares = {name: values for name, values in shares.items() if any(values)}
    changes = [change for change in change_markers(starts[0]) if shown.until is None or change.at < shown.until]
    marks = markers(changes, starts)
    marked = {"markers": [mark.as_dict() for mark in marks]}
    return {
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


def _interactions(row: LeaderboardRow, shown: Shown) -> str:
    """The interactions behind a row."""
    chosen = {"agent": row.agent}
    if row.category:
        chosen["category"] = row.category
    ends = (("from", shown.since), ("to", shown.until and shown.until - timedelta(seconds=1)))
    for bound, at in ends:
        if at:
            local = timezone.localtime(at)
            chosen |= {f"created_at_{bound}_0": f"{local:%Y-%m-%d}", f"created_at_{bound}_1": f"{local:%H:%M:%S}"}
    return f"{reverse('admin:rewards_interaction_changelist')}?{urlencode(chosen)}"
