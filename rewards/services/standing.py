"""Whom a variant is compared with, and how it stands beside that one by ratings and traffic. Decides nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Q, Sum

from agents.errors import OVERLOADED
from agents.models import AgentVariant
from agents.selectors import live_variants
from rewards.models import BanditArm, Canary, Interaction, Pull
from rewards.promotion import Outcome, Record, Thresholds, Verdict, canary_verdict, standing
from rewards.rollup.read import log_sums
from rewards.rollup.spans import HOUR, start_of
from rewards.rollup.sums import Sums

INCUMBENT_BEFORE = timedelta(days=7)  # whose errors and latency the guard compares with, besides those since the canary's start


def thresholds() -> Thresholds:
    """As the settings have them."""
    names = [spec.name for spec in dataclasses.fields(Thresholds)]
    return Thresholds(**{name: getattr(settings, f"ADAPTRAG_{name.upper()}") for name in names})


def incumbent_of(variant: AgentVariant) -> AgentVariant | None:
    """Whom a variant is measured against where nobody says: the active revision of its agent, else of its predecessor's agent,
    else the live agent with the most ratings."""
    active = (
        AgentVariant.objects.filter(state=AgentVariant.State.ACTIVE, enabled=True).exclude(pk=variant.pk).order_by("-revision")
    )
    if own := active.filter(name=variant.name).first():
        return own
    if variant.predecessor is not None and (kin := active.filter(name=variant.predecessor.name).first()):
        return kin
    others = [one for one in live_variants() if one.state == AgentVariant.State.ACTIVE and one.pk != variant.pk]
    pulls: dict[int, float] = {}
    for pk, n in BanditArm.objects.filter(variant__in=others).order_by().values_list("variant_id", "pulls"):
        pulls[pk] = pulls.get(pk, 0.0) + n
    return max(others, key=lambda one: pulls.get(one.pk, 0.0), default=None)


def canary_standing(canary: Canary, *, traffic: bool = True) -> Verdict:
    """How a canary stands now. traffic: errors and latency too, which takes a reading of the sums."""
    if canary.incumbent is None:
        reason = f"{canary.variant} has no incumbent to be compared with; promote it with a reason, or roll it back."
        return Verdict(outcome=Outcome.HOLD, reason=reason)
    pair = (canary.variant, canary.incumbent)
    seen = _traffic(pair, canary.started_at - INCUMBENT_BEFORE) if traffic else {}
    ratings = _ratings(pair)
    records = [Record(name=str(one), ratings=ratings.get(one.pk, {}), traffic=seen.get(one.pk)) for one in pair]
    return canary_verdict(*records, canary.max_share, thresholds())


def standing_figures(variant: AgentVariant, other: AgentVariant) -> dict[str, Any]:
    """The ratings of one beside another's, as figures of a decision that a person makes."""
    margin, ratings = thresholds().guard_margin, _ratings((variant, other))
    own, others = (Record(name=str(one), ratings=ratings.get(one.pk, {})) for one in (variant, other))
    return dataclasses.asdict(standing(own, others, margin)) | {"margin": margin}


def _ratings(pair: Sequence[AgentVariant]) -> dict[int, dict[str, tuple[float, float]]]:
    """{variant: {category: (n, sum of rewards)}} of the answers that a variant gave itself, not by a fall-back model."""
    found: dict[int, dict[str, tuple[float, float]]] = {}
    arms = BanditArm.objects.filter(variant__in=[one.pk for one in pair], pulls__gt=0).order_by()
    for pk, category, pulls, total in arms.values_list("variant_id", "category", "pulls", "total"):
        found.setdefault(pk, {})[category] = pulls, min(max(total, 0.0), pulls)
    if spared := _spared(pair):
        rows = Pull.objects.filter(arm__variant__in=spared, interaction__fallback__isnull=False).order_by()
        rows = rows.values_list("arm__variant", "arm__category").annotate(Count("pk"), Sum("value"))
        for pk, category, n, total in rows:
            pulls, sum_ = found[pk].pop(category)
            if pulls > n:
                found[pk][category] = pulls - n, min(max(sum_ - total, 0.0), pulls - n)
    return found


def _traffic(pair: Sequence[AgentVariant], since: datetime) -> dict[int, Sums]:
    """An answer by a fall-back model counts as failed. A question that was refused because the model process was at its limit
    doesn't count at all: its load is everybody's."""
    sums = {one.pk: Sums() for one in pair}
    for (_, pk), part in log_sums(since).items():
        if pk in sums:
            sums[pk].add(part)
    rows = Interaction.objects.filter(created_at__gte=start_of(HOUR, since)).exclude(mode=Interaction.Mode.COMPARE).order_by()
    turned_away = rows.filter(variant__in=sums, state=Interaction.State.FAILED, error__code=OVERLOADED)
    for pk, n in turned_away.values_list("variant_id").annotate(Count("pk")):
        sums[pk].failed -= n
        sums[pk].interactions -= n
    if spared := _spared(pair):
        counts = {"n": Count("pk"), "busy": Count("pk", filter=Q(fallback__code=OVERLOADED))}
        answered = rows.filter(variant__in=spared, state=Interaction.State.ANSWERED, fallback__isnull=False)
        for pk, n, busy in answered.values_list("variant_id").annotate(**counts):
            sums[pk].failed += n - busy
            sums[pk].interactions -= busy
    return sums


def _spared(pair: Sequence[AgentVariant]) -> list[int]:
    """Those for which another model may step in; nobody else's rows have to be looked at."""
    return [one.pk for one in pair if "fallback" in one.chat_options]
