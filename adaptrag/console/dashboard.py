"""The admin's home: what happens on this site, what is learned, what runs, what went wrong, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from adaptrag.api.models import ApiKey
from adaptrag.common.models import Job
from adaptrag.common.selectors import queue_status
from adaptrag.console.charts import band_chart, markers, stacked_bars
from adaptrag.console.figures import latency_percentile, mean_rewards, proportion
from agents.models import AgentVariant, Document
from agents.selectors import live_variants
from rewards.checks import check_policy
from rewards.models import Interaction, Reward
from rewards.rollup.read import log_series, log_sums
from rewards.rollup.sums import Sums
from rewards.selectors import change_markers
from rewards.services import decisions_waiting

ERRORS = 6
JOBS = 6


@dataclass(frozen=True, kw_only=True)
class Period:
    """A span of time up to now, cut into buckets of an hour or a day."""

    key: str
    title: str
    step: timedelta
    buckets: int

    @property
    def hourly(self) -> bool:
        return self.step < timedelta(days=1)

    def starts(self, now: datetime) -> list[datetime]:
        """The start of each bucket, oldest first; the last one holds `now`."""
        last = timezone.localtime(now).replace(minute=0, second=0, microsecond=0)
        last = last if self.hourly else last.replace(hour=0)
        return [last - self.step * back for back in range(self.buckets - 1, -1, -1)]

    def label(self, start: datetime) -> str:
        return f"{start:%H}:00" if self.hourly else f"{start.day} {start:%b}"


PERIODS = {
    period.key: period
    for period in (
        Period(key="24h", title="24 hours", step=timedelta(hours=1), buckets=24),
        Period(key="7d", title="7 days", step=timedelta(days=1), buckets=7),
        Period(key="30d", title="30 days", step=timedelta(days=1), buckets=30),
    )
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One of the first things to do on a new site."""

    title: str
    detail: str
    url: str
    done: bool


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that failed: when, where, and in what words."""

    at: datetime
    kind: str
    title: str
    message: str
    url: str


def dashboard_callback(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What unfold calls for the admin's index page."""
    period = PERIODS.get(request.GET.get("period", ""), PERIODS["7d"])
    context["period"] = period
    context["periods"] = PERIODS.values()
    if request.user.has_perm("rewards.view_interaction"):
        context |= _traffic(period)
    if request.user.has_perm("common.view_job"):
        context["queues"] = [one for one in queue_status() if one.stalled]
    if request.user.has_perm("rewards.view_promotiondecision"):
        context["promotions_waiting"] = decisions_waiting()
    if request.user.has_perm("rewards.view_routingpolicy"):
        context["unroutable"] = check_policy(databases=["default"])
    context["jobs"] = live_jobs(request)
    context["troubles"] = _troubles(request)
    steps = _steps()
    context["steps"] = steps if not all(step.done for step in steps) else []
    return context


def live_jobs(request: HttpRequest) -> list[Job]:
    """Jobs that wait or run; for the fragment that the page fetches again while there are any."""
    if not request.user.has_perm("common.view_job"):
        return []
    return list(Job.objects.filter(state__in=Job.LIVE).defer("log", "traceback", "payload", "result")[:JOBS])


def _traffic(period: Period) -> dict[str, Any]:
    starts = period.starts(timezone.now())
    since = starts[0]
    series = log_series(starts)
    names = dict(AgentVariant.objects.filter(pk__in={pk for one in series for pk in one}).values_list("pk", "name"))
    by_agent: dict[str, list[int]] = {}
    for index, variants in enumerate(series):
        for pk, sums in variants.items():
            by_agent.setdefault(names[pk], [0] * len(starts))[index] += sums.interactions
    by_agent = {name: counts for name, counts in sorted(by_agent.items()) if any(counts)}
    overall = together(log_sums(since))
    before = together(log_series([since - period.step * period.buckets], since)[0])
    labels = [period.label(start) for start in starts]
    buckets = [together(variants) for variants in series]
    rewards = mean_rewards([one.total for one in buckets], [one.n for one in buckets])
    marks = markers(change_markers(since), starts)
    marked = {"markers": [mark.as_dict() for mark in marks]}
    return {
        "marks": marks,
        "total": overall.interactions,
        "before": before.interactions,
        "failures": proportion(overall.failed, overall.interactions),
        "failed": overall.failed,
        "latency": latency_percentile(overall.latency, 0.95),
        "reward": mean_rewards([overall.total], [overall.n])[0],
        "traffic_chart": stacked_bars(labels, by_agent) | marked,
        "traffic_table": list(zip(labels, zip(*by_agent.values(), strict=True), strict=True)) if by_agent else [],
        "traffic_agents": list(by_agent),
        "reward_chart": band_chart(labels, rewards) | marked,
        "reward_table": [(label, one) for label, one in zip(labels, rewards, strict=True) if one.n],
        "rated": any(one.n for one in rewards),
        "since": since,
    }


def together(sums: Mapping[Any, Sums]) -> Sums:
    """The sum of all."""
    total = Sums()
    for one in sums.values():
        total.add(one)
    return total


def _troubles(request: HttpRequest) -> list[Trouble]:
    """What failed last, the latest first."""
    since = timezone.now() - timedelta(days=7)
    found: list[Trouble] = []
    if request.user.has_perm("rewards.view_interaction"):
        failed = Interaction.objects.filter(state=Interaction.State.FAILED, created_at__gte=since).select_related("variant")
        found += [
            Trouble(
                at=one.created_at,
                kind="Question",
                title=f"{one.variant}: {one.question[:100]}",
                message=(one.error or {}).get("message", ""),
                url=reverse("admin:rewards_interaction_change", args=[one.pk]),
            )
            for one in failed.order_by("-created_at").defer("sources", "trace", "answer", "candidates", "messages")[:ERRORS]
        ]
    if request.user.has_perm("common.view_job"):
        jobs = Job.objects.filter(state=Job.State.FAILED, finished_at__gte=since).order_by("-finished_at")
        found += [
            Trouble(
                at=job.finished_at,
                kind="Job",
                title=str(job),
                message=job.error,
                url=reverse("admin:common_job_change", args=[job.pk]),
            )
            for job in jobs.defer("log", "traceback", "payload", "result")[:ERRORS]
        ]
    if request.user.has_perm("agents.view_document"):
        documents = Document.objects.filter(state=Document.State.FAILED, updated_at__gte=since).order_by("-updated_at")
        found += [
            Trouble(
                at=document.updated_at,
                kind="Document",
                title=str(document),
                message=document.error,
                url=reverse("admin:agents_document_change", args=[document.pk]),
            )
            for document in documents[:ERRORS]
        ]
    return sorted(found, key=lambda one: one.at, reverse=True)[:ERRORS]


def _steps() -> list[Step]:
    documents = Document.objects.filter(state=Document.State.READY).exists()
    return [
        Step(
            title="Ingest documents",
            detail="Upload files, or run manage.py ingest on a folder.",
            url=reverse("admin:agents_document_add"),
            done=documents,
        ),
        Step(
            title="Register agents",
            detail="Several that search and answer differently; the router learns which to trust.",
            url=reverse("admin:agents_agentvariant_add"),
            done=bool(live_variants()),
        ),
        Step(
            title="Create an API key",
            detail="For programs that ask and give feedback.",
            url=reverse("admin:api_apikey_add"),
            done=ApiKey.objects.exists(),
        ),
        Step(
            title="Ask a question",
            detail="On the chat page, or by POST /api/query.",
            url=reverse("chat"),
            done=Interaction.objects.exists(),
        ),
        Step(
            title="Rate an answer",
            detail="A thumb is enough. Each rating moves the routing.",
            url=reverse("chat"),
            done=Reward.objects.exists(),
        ),
    ]
