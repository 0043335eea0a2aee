"""A variant's steps, each with its PromotionDecision in the same transaction. rewards.promotion says when, this does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import OuterRef, Subquery

from adaptrag.common.errors import Conflict, InvalidInput
from agents.errors import UnknownAgent
from agents.models import AgentVariant
from agents.selectors import LIVE_STATES, live_variants
from agents.services import agent_set_state
from rewards.models import Canary, PromotionDecision
from rewards.promotion import Evidence, Outcome, Verdict, gate_verdict, next_share
from rewards.selectors import variants_of
from rewards.services.policies import bounds_checked, limits_kept
from rewards.services.standing import canary_standing, incumbent_of, standing_figures, thresholds
from rewards.services.turn import write_turn

logger = logging.getLogger(__name__)

CANDIDATE, CANARY, ACTIVE, RETIRED = AgentVariant.State
REASON_MAX = 2000
GATE, GROWTH, GUARD, PROGRAM = "gate", "canary", "guard", "program"
RULES = (GATE, GROWTH, GUARD)


def variant_gate(variant: AgentVariant, evidence: Evidence, *, user: Any = None) -> PromotionDecision:
    """Let the evidence decide whether a candidate becomes a canary. Raises Conflict for another than a candidate.

    What is rejected or needs a person first stays a candidate; so does what passed where ADAPTRAG_ASK_CANARY asks for a click,
    or where an older revision is still a canary, which a click would replace.
    """
    with write_turn(), transaction.atomic():
        row = _locked(variant)
        if row.state != CANDIDATE:
            raise Conflict(f"{row} is {row.state}; only a candidate goes through the gate.")
        if evidence.candidate not in (row.name, str(row)):
            raise Conflict(f"The evidence is about {evidence.candidate}, not about {row}.")
        incumbent = _named(evidence.incumbent)
        verdict = gate_verdict(evidence, thresholds())
        step = {"by": GATE, "user": user, "incumbent": incumbent, "reason": verdict.reason, "figures": verdict.figures}
        kinds = PromotionDecision.Verdict
        if verdict.outcome == Outcome.NEEDS_HUMAN:
            return _decided(row, CANDIDATE, kinds.NEEDS_HUMAN, **step)
        if verdict.outcome == Outcome.REJECT:
            return _decided(row, CANDIDATE, kinds.REJECTED, **step)
        if settings.ADAPTRAG_ASK_CANARY:
            return _decided(row, CANARY, kinds.WAITS, **step)
        if under_trial := canaries_of(row.name):
            step["reason"] += f" But {under_trial[0]} is still a canary: a click puts {row} in its place."
            return _decided(row, CANARY, kinds.WAITS, **step)
        return _to_canary(row, **step)


def variant_promote(
    variant: AgentVariant,
    *,
    reason: str,
    user: Any = None,
    override: bool = False,
    incumbent: AgentVariant | None = None,
) -> PromotionDecision:
    """One step on: candidate to canary, canary to active. It takes that the step waits for a click or that its rule agrees;
    with `override` and a reason neither. Raises Conflict that names what is missing, InvalidInput without a reason.

    The caller's `variant` is what it saw: where the row has moved since, nobody moves it twice.
    """
    reason = _reason(reason, needed=override)
    with write_turn(), transaction.atomic():
        row = _locked(variant)
        last = row.decisions.first()
        waiting = last if last is not None and last.verdict == PromotionDecision.Verdict.WAITS else None
        step: dict[str, Any] = {"by": PROGRAM, "user": user, "override": override, "reason": reason}
        if row.state == CANDIDATE:
            approved = waiting is not None and waiting.to_state == CANARY
            if not (approved and user is not None) and not override:
                raise Conflict(_not_yet(row, last, approved))
            known = waiting.rollback_to if approved else last.rollback_to if last else None
            step |= {"incumbent": incumbent or known or incumbent_of(row), "figures": last.figures if last else {}}
            return _to_canary(row, **_approved(step, waiting if approved else None))
        if row.state != CANARY:
            hint = "" if row.state == ACTIVE else " Register it again as a new revision to try it anew."
            raise Conflict(f"{row} is {row.state}; only candidates and canaries are promoted.{hint}")
        canary = Canary.objects.select_related("variant", "incumbent").get(pk=row.pk)
        approved = waiting is not None and user is not None
        if approved and waiting.to_state == CANARY and not override:
            step |= {"figures": waiting.figures, "incumbent": canary.incumbent}
            return _grown(row, canary, **_approved(step, waiting))
        approved = approved and waiting.to_state == ACTIVE
        verdict = canary_standing(canary)
        if not override and not approved and verdict.outcome != Outcome.ACTIVATE:
            raise Conflict(f"{row} can't become active yet: {verdict.reason} An operator can override that with a reason.")
        step |= {"figures": verdict.figures, "incumbent": canary.incumbent}
        return _to_active(row, **_approved(step, waiting if approved else None))


def variant_rollback(
    target: str | AgentVariant, *, reason: str, user: Any = None, by: str = PROGRAM, figures: Mapping[str, Any] | None = None
) -> PromotionDecision:
    """Take a canary, or what was promoted last, out of the traffic for good, and put back what its promotion retired, or else
    who answered before.

    target: a variant, or an agent's name: its canary, else its active revision. Raises Conflict where there is nothing to go
    back to, UnknownAgent.
    """
    reason = _reason(reason, needed=True)
    with write_turn(), transaction.atomic():
        row = _locked(target if isinstance(target, AgentVariant) else _newest(target))
        if row.state == CANARY:
            back = Canary.objects.select_related("incumbent").get(pk=row.pk).incumbent
        elif row.state == ACTIVE:
            back = rollback_target(row)
            if back is None:
                raise Conflict(f"{row} was promoted over no other agent, so there is nothing to go back to. Retire it instead.")
        else:
            raise Conflict(f"{row} is {row.state}: it answers nobody, so there is nothing to roll back.")
        restored = _replaced_by(row) if row.state == ACTIVE else []
        if row.state == ACTIVE and not restored and back.state == RETIRED:
            restored = [back]
        if figures is None and back is not None:
            figures = canary_standing(row.canary).figures if row.state == CANARY else standing_figures(row, back)
        kind = PromotionDecision.Verdict.ROLLED_BACK
        decision = _moved(row, RETIRED, kind, by=by, user=user, reason=reason, incumbent=back, figures=figures)
        for former in restored:
            step = {"by": by, "user": user, "reason": f"Answers again after the rollback of {row}.", "incumbent": None}
            _moved(former, ACTIVE, PromotionDecision.Verdict.RESTORED, **step)
        _somebody_answers(row)
        return decision


def _replaced_by(active: AgentVariant) -> list[AgentVariant]:
    """The older revisions that retired for this one and are retired still."""
    rows = AgentVariant.objects.filter(name=active.name, state=RETIRED).exclude(pk=active.pk)
    lasts = ((row, row.decisions.first()) for row in rows)
    return [
        row
        for row, last in lasts
        if last is not None and (last.rollback_to_id, last.from_state, last.to_state) == (active.pk, ACTIVE, RETIRED)
    ]


def canaries_of(name: str) -> list[AgentVariant]:
    """The revisions of an agent that are under trial; one at most, unless a state was set directly."""
    return list(AgentVariant.objects.filter(name=name, state=CANARY).order_by("-revision"))


def rollback_target(active: AgentVariant) -> AgentVariant | None:
    """Who answered before a variant became active, whether it was promoted or is an operator's edit; None where nobody did."""
    kinds = [PromotionDecision.Verdict.PROMOTED, PromotionDecision.Verdict.MOVED]
    steps = active.decisions.filter(to_state=ACTIVE, verdict__in=kinds).exclude(rollback_to=None)
    found = steps.select_related("rollback_to").first()
    return found.rollback_to if found else None


def variant_retire(variant: AgentVariant, *, reason: str, user: Any = None) -> PromotionDecision:
    """The end of a variant, whatever its state. Raises Conflict for the last agent that answers, and where the others' limits
    can't be kept without it."""
    reason = _reason(reason, needed=True)
    with write_turn(), transaction.atomic():
        row = _locked(variant)
        if row.state == RETIRED:
            raise Conflict(f"{row} is retired already.")
        answered = row.state in LIVE_STATES
        decision = _moved(row, RETIRED, PromotionDecision.Verdict.RETIRED, by=PROGRAM, user=user, reason=reason, incumbent=None)
        if answered:
            _somebody_answers(row)
            limits_kept()
        return decision


def promotions_watch() -> list[PromotionDecision]:
    """Look at every canary, its errors and latency included: grow, activate, pause or roll back. Scheduled every minute."""
    found = [canary_watch(pk, traffic=True) for pk in Canary.objects.filter(paused=False).values_list("pk", flat=True)]
    return [one for one in found if one is not None]


def canary_looked_after(variant: AgentVariant, *, traffic: bool) -> None:
    """`canary_watch` after a rating or a failed answer of a canary, whose own success doesn't depend on it."""
    try:
        canary_watch(variant.pk, traffic=traffic)
    except DatabaseError:
        logger.exception("the canary %s could not be looked after; the schedule tries again within a minute", variant)


def canary_watch(pk: int, *, traffic: bool) -> PromotionDecision | None:
    """What follows for one canary now; None for nothing. traffic: errors and latency too, which takes a reading of the sums."""
    canary = Canary.objects.select_related("variant", "incumbent").filter(pk=pk, paused=False).first()
    if canary is None:
        return None
    verdict = canary_standing(canary, traffic=traffic)
    if verdict.outcome == Outcome.HOLD:
        return None
    with write_turn(), transaction.atomic():
        row = AgentVariant.objects.select_for_update().get(pk=pk)
        fresh = Canary.objects.select_related("incumbent").filter(pk=pk).first()
        if row.state != CANARY or fresh is None or (fresh.paused, fresh.max_share) != (False, canary.max_share):
            return None  # somebody else came first
        return _followed(row, fresh, verdict)


def _followed(row: AgentVariant, canary: Canary, verdict: Verdict) -> PromotionDecision | None:
    kinds = PromotionDecision.Verdict
    step = {"user": None, "reason": verdict.reason, "figures": verdict.figures, "incumbent": canary.incumbent}
    if verdict.outcome == Outcome.ROLL_BACK:
        if settings.ADAPTRAG_ASK_ROLLBACK:
            canary.paused = True
            canary.save(update_fields=["paused"])
            return _decided(row, RETIRED, kinds.PAUSED, by=GUARD, **step)
        return variant_rollback(row, reason=verdict.reason, by=GUARD, figures=verdict.figures)
    grows = verdict.outcome == Outcome.GROW
    if not (settings.ADAPTRAG_ASK_GROW if grows else settings.ADAPTRAG_ASK_ACTIVE):
        return _grown(row, canary, by=GROWTH, **step) if grows else _to_active(row, by=GROWTH, **step)
    last = row.decisions.first()
    if last is not None and last.verdict == kinds.WAITS:
        return None
    return _decided(row, CANARY if grows else ACTIVE, kinds.WAITS, by=GROWTH, **step)


def _grown(row: AgentVariant, canary: Canary, **step: Any) -> PromotionDecision:
    canary.max_share = next_share(canary.max_share, thresholds())
    canary.save(update_fields=["max_share"])
    return _decided(row, CANARY, PromotionDecision.Verdict.GREW, **step)


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """Where a variant would go, whether its rule agrees (else it takes an override), and what speaks for or against it.

    waits: it waits for nothing but a click. grows: it stays a canary, with a larger share."""

    to_state: str
    ready: bool
    told: str
    waits: bool = False
    grows: bool = False

    @property
    def words(self) -> str:
        """What the click does."""
        return "let its share grow" if self.grows else f"make it {self.to_state}"


def variant_next(variant: AgentVariant) -> NextStep | None:
    """The step that `variant_promote` would make; None for one that is neither candidate nor canary."""
    last = variant.decisions.first()
    waits = last is not None and last.verdict == PromotionDecision.Verdict.WAITS
    if variant.state == CANDIDATE:
        told = last.reason if last else f"No eval run has compared {variant} with its incumbent yet."
        return NextStep(to_state=CANARY, ready=waits, told=told, waits=waits)
    if variant.state != CANARY:
        return None
    if waits:
        return NextStep(to_state=last.to_state, ready=True, told=last.reason, waits=True, grows=last.to_state == CANARY)
    verdict = canary_standing(Canary.objects.select_related("variant", "incumbent").get(pk=variant.pk))
    return NextStep(to_state=ACTIVE, ready=verdict.outcome == Outcome.ACTIVATE, told=verdict.reason)


def decisions_waiting() -> list[PromotionDecision]:
    """The last decision of each candidate and canary where that waits for a person."""
    verdicts = PromotionDecision.Verdict
    newest = PromotionDecision.objects.filter(variant=OuterRef("variant")).order_by("-id").values("pk")[:1]
    rows = PromotionDecision.objects.filter(
        pk=Subquery(newest),
        verdict__in=[verdicts.WAITS, verdicts.PAUSED, verdicts.NEEDS_HUMAN],
        variant__state__in=[CANDIDATE, CANARY],
    )
    return list(rows.select_related("variant"))


def _to_canary(row: AgentVariant, *, incumbent: AgentVariant | None, **step: Any) -> PromotionDecision:
    if incumbent is None or incumbent.state not in LIVE_STATES or incumbent.pk == row.pk:
        told = "there is none" if incumbent is None else f"{incumbent} is {incumbent.state}"
        raise Conflict(f"{row} needs an incumbent that answers, to be compared with and to fall back to; {told}. Name one.")
    bounds = thresholds()
    for older in canaries_of(row.name):
        reason = f"Replaced as the canary by {row}."
        _moved(older, RETIRED, PromotionDecision.Verdict.RETIRED, **(_by(step) | {"reason": reason, "incumbent": None}))
    decision = _moved(row, CANARY, PromotionDecision.Verdict.PROMOTED, incumbent=incumbent, **step)
    shares = {"min_share": bounds.canary_share, "max_share": bounds.canary_share, "incumbent": incumbent, "paused": False}
    Canary.objects.update_or_create(pk=row.pk, defaults=shares)
    bounds_checked()
    return decision


def _to_active(row: AgentVariant, *, incumbent: AgentVariant | None, **step: Any) -> PromotionDecision:
    decision = _moved(row, ACTIVE, PromotionDecision.Verdict.PROMOTED, incumbent=incumbent, **step)
    for older in AgentVariant.objects.filter(name=row.name, state=ACTIVE).exclude(pk=row.pk):
        reason = f"Replaced by {row}, which a rollback takes back."
        _moved(older, RETIRED, PromotionDecision.Verdict.RETIRED, **(_by(step) | {"reason": reason, "incumbent": row}))
    bounds_checked()
    return decision


def _by(step: Mapping[str, Any]) -> dict[str, Any]:
    return {"by": step["by"], "user": step["user"]}


def _approved(step: dict[str, Any], waiting: PromotionDecision | None) -> dict[str, Any]:
    """What was waiting told why; the person who approves may add to it."""
    if waiting is None:
        return step | {"reason": step["reason"] or "Promoted by hand: its rule agrees."}
    return step | {"reason": f"{waiting.reason} Approved{': ' + step['reason'] if step['reason'] else '.'}"}


def _not_yet(row: AgentVariant, last: PromotionDecision | None, approved: bool) -> str:
    if approved:
        return f"{row} passed its gate and waits for a person's click, which a program can't give."
    said = f" Last: {last.reason}" if last else ""
    return (
        f"No gate let {row} pass.{said} Run an eval of it with its incumbent and promote it by that run; an operator can "
        "override the gate with a reason."
    )


def _locked(variant: AgentVariant) -> AgentVariant:
    """The row, held until the transaction ends. Raises Conflict where it is no longer in the state that the caller saw."""
    row = AgentVariant.objects.select_for_update(of=("self",)).select_related("predecessor").get(pk=variant.pk)
    if row.state != variant.state:
        raise Conflict(f"{row} is {row.state} by now; it was {variant.state} when you asked. Look at it again.")
    return row


def _moved(row: AgentVariant, state: str, verdict: str, **step: Any) -> PromotionDecision:
    """Move it and write why."""
    decision = _decided(row, state, verdict, **step)
    row.move_decided = True
    agent_set_state(row, state, user=step["user"], decided=True)
    return decision


def _decided(
    row: AgentVariant,
    state: str,
    verdict: str,
    *,
    by: str,
    user: Any,
    reason: str,
    incumbent: AgentVariant | None,
    figures: Mapping[str, Any] | None = None,
    override: bool = False,
) -> PromotionDecision:
    return PromotionDecision.objects.create(
        variant=row,
        from_state=row.state,
        to_state=state,
        verdict=verdict,
        override=override,
        reason=reason,
        figures=dict(figures or {}),
        rollback_to=incumbent,
        decided_by=by if user is None or by in RULES else user.get_username(),
        user=user,
    )


def _somebody_answers(row: AgentVariant) -> None:
    """Raises Conflict, which takes all back, where the step left no agent."""
    if not live_variants():
        raise Conflict(f"{row} is the only agent that answers. Enable or register another one first.")


def _named(label: str) -> AgentVariant:
    """ "name", "name r2" or "name@2"."""
    name, _, revision = label.replace("@", " r").partition(" r")
    found = AgentVariant.objects.filter(name=name)
    if revision.isdecimal() and len(revision) < 10:
        row = found.filter(revision=int(revision)).first()
    else:
        row = found.filter(state__in=LIVE_STATES).order_by("state", "-revision").first()
    if row is None:
        raise UnknownAgent(f"There is no agent {label!r} that answers.", agent=label)
    return row


def _newest(name: str) -> AgentVariant:
    rows = variants_of(name)
    return next((row for state in (CANARY, ACTIVE) for row in rows if row.state == state), rows[0])


def _reason(text: Any, *, needed: bool) -> str:
    if not isinstance(text, str) or len(text) > REASON_MAX or "\x00" in text:
        raise InvalidInput(f"A reason is text of at most {REASON_MAX:,} characters.", field="reason")
    text = text.strip()
    if needed and not text:
        raise InvalidInput("Say why; the reason is kept with the decision.", field="reason")
    return text
