"""From an eval run to the frozen evidence that rewards.promotion judges."""

from __future__ import annotations

import math
from typing import Any

from adaptrag.common.errors import Conflict, InvalidInput
from agents.models import AgentVariant
from evals.models import EvalResult, EvalRun, EvalSet
from evals.selectors import judge_calibration
from evals.statistics import compare
from rewards.models import PromotionDecision
from rewards.promotion import Evidence, Verdict, gate_verdict
from rewards.services import thresholds, variant_gate


def gate_evidence(run: EvalRun, candidate: str, incumbent: str) -> Evidence:
    """Candidate minus incumbent over the run's questions that both were asked. "name", "name r2" and "name@2" name an agent.

    An answer that failed scores 0: it is worth nothing to who asked. So does one that a fall-back model gave, which says
    nothing of the agent. A question that the judge failed on is left out. Raises InvalidInput where the run has no scores or
    did not ask one of them.
    """
    if run.judge == EvalRun.Judge.NONE:
        raise InvalidInput(f"{run} has no judge, so it scores nobody. Run it with judge 'reference' or 'llm'.", field="run")
    sides = [_variant(run, name) for name in (candidate, incumbent)]
    if sides[0].pk == sides[1].pk:
        raise InvalidInput(f"{sides[0]} can't be compared with itself.", field="incumbent")
    rows = {variant.pk: _rows(run, variant) for variant in sides}
    own, other = (rows[variant.pk] for variant in sides)
    shared = sorted(own.keys() & other.keys())
    names = [str(variant) for variant in sides]
    scores = {names[1]: [_score(other[key]) for key in shared], names[0]: [_score(own[key]) for key in shared]}
    (difference,) = compare(scores, names[1])
    costs = [_mean([row.cost_usd for row in one.values()]) for one in (own, other)]
    latencies = [_median([row.latency_ms for row in one.values() if row.own]) for one in (own, other)]
    kinds = {EvalRun.Judge.LLM: "judge"}
    references = "corrections" if run.eval_set.source == EvalSet.Source.INTERACTIONS else "gold"
    both = [(a, b) for a, b in zip(scores[names[0]], scores[names[1]], strict=True) if not math.isnan(a + b)]
    return Evidence(
        candidate=names[0],
        incumbent=names[1],
        n=difference.n,
        difference=_known(difference.difference),
        low=_known(difference.low),
        high=_known(difference.high),
        candidate_mean=_mean([a for a, _ in both]) if both else None,
        incumbent_mean=_mean([b for _, b in both]) if both else None,
        candidate_cost_usd=costs[0],
        incumbent_cost_usd=costs[1],
        candidate_latency_ms=latencies[0],
        incumbent_latency_ms=latencies[1],
        references=kinds.get(run.judge, references),
        judge_calibrated=judge_calibration(run).calibrated if run.judge == EvalRun.Judge.LLM else None,
        source=f"eval run {run.pk}",
    )


def evalrun_gate(run: EvalRun, variant: AgentVariant, incumbent: str = "", *, user: Any = None) -> PromotionDecision:
    """Let a run decide about a candidate that it asked; against its baseline, if that is another agent, where none is named.

    Raises Conflict while the run is not done, InvalidInput where it can't compare the two."""
    return variant_gate(variant, _evidence(run, variant, incumbent), user=user)


def evalrun_verdict(run: EvalRun, variant: AgentVariant, incumbent: str = "") -> Verdict:
    """What `evalrun_gate` would say; decides nothing."""
    return gate_verdict(_evidence(run, variant, incumbent), thresholds())


def _evidence(run: EvalRun, variant: AgentVariant, incumbent: str) -> Evidence:
    if run.state != EvalRun.State.DONE:
        raise Conflict(f"{run} is {run.status}. A gate takes a run that is done.")
    labels = [one.label for one in run.labelled().values() if one.pk != variant.pk]
    if not incumbent and not labels:
        raise InvalidInput(f"{run} asked only {variant}. Run it together with its incumbent.", field="run")
    return gate_evidence(run, str(variant), incumbent or (run.baseline if run.baseline in labels else labels[0]))


def _variant(run: EvalRun, wanted: str) -> AgentVariant:
    label = wanted.replace("@", " r")
    found = [one for one in run.labelled().values() if label in (one.label, str(one))]
    if not found:
        asked = ", ".join(str(one) for one in run.labelled().values())
        raise InvalidInput(f"{run} did not ask {wanted!r}; it asked {asked}.", field="run")
    return found[0]


def _rows(run: EvalRun, variant: AgentVariant) -> dict[str, EvalResult]:
    rows = run.results.filter(variant=variant, complete=True).select_related("question")
    rows = rows.defer("sources", "trace", "answer")
    return {row.question.key: row for row in rows if run.judge != EvalRun.Judge.REFERENCE or row.question.answers}


def _score(row: EvalResult) -> float:
    if not row.own:
        return 0.0
    return math.nan if row.score is None else row.score


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _median(values: list[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
