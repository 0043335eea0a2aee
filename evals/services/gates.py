"""A run as a gate: what was asked of it and not reached. Nothing passes for want of figures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from adaptrag.common.errors import InvalidInput
from evals.models import EvalRun
from evals.services.execution import evalrun_questions
from evals.services.reports import evalrun_comparable, evalrun_regressions, scores_of


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Each gate in words, with its n."""

    met: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def gates_check(*, fail_under: float | None, max_regression: float | None, baseline: EvalRun | None) -> None:
    """Raises InvalidInput where a threshold can't be compared with anything."""
    for name, value in (("fail-under", fail_under), ("max-regression", max_regression)):
        if value is not None and not math.isfinite(value):
            raise InvalidInput(f"--{name} must be a number, not {value!r}.")
    if max_regression is not None and baseline is None:
        raise InvalidInput("--max-regression needs --baseline RUN to compare with.")


def baseline_check(run: EvalRun, baseline: EvalRun, *, gate: bool) -> None:
    """Before a run is paid for: can it be compared with `baseline`? As a gate, every agent over two questions at least.

    Raises InvalidInput.
    """
    evalrun_comparable(run, baseline)
    before = scores_of(baseline, failed_as_zero=True)
    asked = {json.dumps([one.key, one.question, one.answers]) for one in evalrun_questions(run)}
    shared = {one.label: len(asked & before.get(one.label, {}).keys()) for one in run.labelled().values()}
    short = [f"{agent} ({n} shared question{'' if n == 1 else 's'} with scores)" for agent, n in shared.items() if n < 2]
    if short and (gate or len(short) == len(shared)):
        raise InvalidInput(f"Run {baseline.pk} can't be compared with: {', '.join(short)}. Choose another baseline.")


def evalrun_gates(
    run: EvalRun, *, fail_under: float | None = None, baseline: EvalRun | None = None, max_regression: float | None = None
) -> Gates:
    """What of `fail_under` and `max_regression` holds. An answer that failed scores 0, as for who asked."""
    gates = Gates()
    if fail_under is None and max_regression is None:
        return gates
    if run.state != EvalRun.State.DONE:
        gates.missed.append(f"run {run.pk} is not done: {run.get_state_display()}")
    scores = scores_of(run, failed_as_zero=True)
    wanted = sum(bool(one.answers) or run.judge != EvalRun.Judge.REFERENCE for one in evalrun_questions(run))
    lost = {}
    if baseline is not None and max_regression is not None:
        lost = {row["agent"]: row for row in evalrun_regressions(run, baseline, failed_as_zero=True)}
    for agent in (one.label for one in run.labelled().values()):
        own = list(scores.get(agent, {}).values())
        if not own or 2 * len(own) < wanted:
            gates.missed.append(f"{agent} has scores for {len(own)} of {wanted} questions, too few to judge by")
            continue
        if fail_under is not None:
            mean = sum(own) / len(own)
            told = f"{agent} has {mean:.3f} (n {len(own)}), at least {fail_under:g} was asked for"
            (gates.met if mean >= fail_under else gates.missed).append(told)
        if max_regression is not None:
            _compared(gates, agent, lost.get(agent), baseline, max_regression)
    return gates


def _compared(gates: Gates, agent: str, row: dict[str, Any] | None, baseline: EvalRun, allowed: float) -> None:
    n = row["n"] if row else 0
    if row is None or row["difference"] is None or n < 2:
        gates.missed.append(f"{agent} can't be compared with run {baseline.pk} (n {n})")
        return
    change = f"{'lost' if row['difference'] < 0 else 'gained'} {abs(row['difference']):.3f}"
    told = f"{agent} {change} against run {baseline.pk} (n {n}), at most {allowed:g} was allowed to be lost"
    (gates.met if row["difference"] >= -allowed else gates.missed).append(told)
