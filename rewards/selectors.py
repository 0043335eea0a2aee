"""Reading policies, and what operators changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import F
from django.urls import reverse

from adaptrag.common.errors import Conflict
from agents.errors import UnknownAgent
from agents.models import AgentVariant, Collection
from rewards.models import AgentLimit, Canary, CategoryPin, PriorReward, PromotionDecision, RoutingPolicy

DEFAULT_POLICY = RoutingPolicy.Kind.HIERARCHICAL  # docs/decisions/0004-default-policy.md


def source_link(source: dict[str, Any], interaction_id: Any) -> str:
    """Where a logged source is read: at its place in the document, or at its own address if it came from outside."""
    if source.get("url"):
        return source["url"]
    return reverse("source", args=[source["chunk_id"]]) + f"?interaction={interaction_id}#passage"


def active_policy() -> RoutingPolicy:
    """The policy that routes. A site that has none yet gets the default one, under the name of its kind."""
    policy = RoutingPolicy.objects.filter(active=True).first()
    if policy is None:
        # Two processes may find none at once; the row's unique name and the "one active" constraint let one of them make it.
        name = str(DEFAULT_POLICY)
        RoutingPolicy.objects.bulk_create([RoutingPolicy(name=name, kind=name, active=True)], ignore_conflicts=True)
        RoutingPolicy.objects.filter(name=name).update(active=True)
        policy = RoutingPolicy.objects.get(active=True)
    return policy


def taking_variants(variants: Iterable[AgentVariant], limits: Iterable[AgentLimit] | None = None) -> list[AgentVariant]:
    """Those that take routed questions: not those whose agent is paused, or that are paused canaries. limits: all there are."""
    limits = AgentLimit.objects.filter(paused=True) if limits is None else limits
    names = {limit.agent_name for limit in limits if limit.paused}
    canaries = set(Canary.objects.filter(paused=True, variant__state=AgentVariant.State.CANARY).values_list("pk", flat=True))
    return [variant for variant in variants if variant.name not in names and variant.pk not in canaries]


def taking_bounds(variants: Iterable[AgentVariant], limits: Iterable[AgentLimit]) -> list[tuple[float | None, float | None]]:
    """(least, largest) share of each variant; of a canary its own, within the agent's limit.

    `rewards.decision` reads the same in SQL."""
    by_name = {limit.agent_name: limit for limit in limits}
    canaries = Canary.objects.filter(variant__state=AgentVariant.State.CANARY).in_bulk()
    found = []
    for variant in variants:
        limit, canary = by_name.get(variant.name, AgentLimit()), canaries.get(variant.pk)
        caps = [one.max_share for one in (limit, canary) if one is not None and one.max_share is not None]
        found.append((canary.min_share if canary else limit.min_share, min(caps, default=None)))
    return found


def sharing(variants: Sequence[AgentVariant]) -> list[list[int]]:
    """The places of variants that are one agent, its active revision first and its canary after it: the agent's largest share
    is that of all of them together. Agents with one variant are left out."""
    places: dict[str, list[int]] = {}
    for place, variant in enumerate(variants):
        places.setdefault(variant.name, []).append(place)
    return [
        sorted(found, key=lambda place: variants[place].state == AgentVariant.State.CANARY)
        for found in places.values()
        if len(found) > 1
    ]


def variants_of(name: str) -> list[AgentVariant]:
    """All revisions of an agent, newest first. Raises UnknownAgent."""
    found = list(AgentVariant.objects.filter(name=name).order_by("-revision")) if "\x00" not in name else []
    if not found:
        known = ", ".join(AgentVariant.objects.order_by("name").values_list("name", flat=True).distinct())
        raise UnknownAgent(f"There is no agent {name[:64]!r}; there are {known or 'none yet'}.", agent=name[:64])
    return found


def variant_moving(name: str, revision: int | None = None) -> AgentVariant:
    """That revision of an agent; without a number the newest that is a candidate or a canary. Raises UnknownAgent, Conflict."""
    moving = (AgentVariant.State.CANDIDATE, AgentVariant.State.CANARY)
    found = variants_of(name)
    if revision is None:
        chosen = next((one for one in found if one.state in moving), None)
        if chosen is None:
            raise Conflict(f"No revision of {name!r} is a candidate or a canary, so there is nothing to promote.")
        return chosen
    chosen = next((one for one in found if one.revision == revision), None)
    if chosen is None:
        there = ", ".join(str(one.revision) for one in found)
        raise UnknownAgent(f"{name!r} has no revision {revision}; there are {there}.", agent=f"{name}@{revision}")
    return chosen


@dataclass(frozen=True, kw_only=True)
class ChangeMarker:
    """A change that may show in the figures. kind: policy, prior, limit, pin, top_k or promotion; by: a user's name or a
    rule's, empty for a program."""

    at: datetime
    kind: str
    label: str
    by: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"at": self.at.isoformat()}


def change_markers(since: datetime | None = None) -> list[ChangeMarker]:
    """What changed in policies, priors, limits, pins, collections' top_k and the agents' states, oldest first. Saves that
    changed nothing are left out. A policy that waits shows only when it takes over. Six queries."""
    sources = (
        *(("policy", RoutingPolicy), ("prior", PriorReward), ("limit", AgentLimit), ("pin", CategoryPin)),
        ("top_k", Collection),
    )
    markers = [marker for kind, model in sources for marker in _markers(kind, model, since)]
    steps = PromotionDecision.objects.select_related("variant").exclude(from_state=F("to_state")).exclude(
        verdict__in=[PromotionDecision.Verdict.WAITS, PromotionDecision.Verdict.PAUSED]
    )  # fmt: skip
    if since is not None:
        steps = steps.filter(at__gte=since)
    markers += [
        ChangeMarker(
            at=step.at, kind="promotion", label=f"{step.variant}: {step.from_state} to {step.to_state}", by=step.decided_by
        )
        for step in steps
    ]
    return sorted(markers, key=lambda marker: (marker.at, marker.kind, marker.label))


_MARKED = {
    "policy": RoutingPolicy.REVISED_BY,
    "prior": ("pulls", "total"),
    "limit": ("min_share", "max_share", "paused"),
    "pin": ("agent_name",),
    "top_k": ("top_k",),
}


def _markers(kind: str, model: Any, since: datetime | None) -> Iterator[ChangeMarker]:
    # Whole histories are read: the row before the period says what the first change in it changed. They are short.
    before: dict[int, Any] = {}
    for row in model.history.select_related("history_user").order_by("history_date", "history_id"):
        last, before[row.id] = before.get(row.id), row
        if since is not None and row.history_date < since:
            continue
        label = _label(kind, model, last, row)
        if label:
            by = row.history_user.get_username() if row.history_user else ""
            yield ChangeMarker(at=row.history_date, kind=kind, label=label, by=by)


def _label(kind: str, model: Any, last: Any, row: Any) -> str:
    if kind == "top_k":
        made = row.history_type != "~"  # with the default, or deleted with its documents
        return "" if made or (last is not None and last.top_k == row.top_k) else f"{row.name}: top_k {row.top_k}"
    name = str(model(**{field.attname: getattr(row, field.attname) for field in model._meta.concrete_fields}))
    if row.history_type == "-":
        return f"{name}: removed"
    changed = [field for field in _MARKED[kind] if last is None or getattr(last, field) != getattr(row, field)]
    if kind != "policy":
        return name if changed else ""
    if not row.active:
        return ""
    if last is None and row.history_type == "~":
        return f"{name}: changed"  # the default policy, which nobody made: its history begins with the first change
    if last is None or not last.active:
        return f"{name} routes"
    if "learn_since" in changed:
        return "back to the priors"
    return f"{name}: {', '.join(RoutingPolicy._meta.get_field(field).verbose_name for field in changed)}" if changed else ""
