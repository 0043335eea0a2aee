"""What a policy knows while a log is walked through: the same sums as the arms in the database, kept in arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rewards.bandit import ArmEvidence, ForwardDecay, Policy
from rewards.bandit.lints import question_context

Array = np.ndarray
Priors = tuple[Array, Array]  # (pulls, totals), each of shape (categories, arms)


class EvidenceTable:
    """Sums of `runs` independent walks through the same rows, for one policy.

    categories: the rows' categories, shape (n,); shape: (categories, arms); embeddings: float array, shape (n, E), for
    policies that read the question; times: the rows' times in days, rising, for policies whose half-life is in days (one run).
    Raises ValueError for a policy that these rows cannot serve."""

    def __init__(
        self,
        policy: Policy,
        categories: Array,
        shape: tuple[int, int],
        *,
        runs: int = 1,
        embeddings: Array | None = None,
        priors: Priors | None = None,
        times: Array | None = None,
    ) -> None:
        self.categories, self.priors, self.reads_elsewhere = categories, priors, policy.reads_elsewhere
        self.sums = np.zeros((3, runs, *shape))  # pulls, totals, squares
        self.each = np.arange(runs)
        self.contexts = self.designs = self.responses = None
        if policy.reads_question:
            if embeddings is None or len(embeddings) != len(categories):
                raise ValueError(
                    f"{policy.kind} reads the questions: give an embedding for each of the {len(categories)} rows."
                )
            self.contexts = question_context(embeddings, policy.dimensions)
            length = self.contexts.shape[1]
            self.designs = np.zeros((runs, shape[1], length, length))
            self.responses = np.zeros((runs, shape[1], length))
        self.times = None
        if policy.half_life is not None and policy.unit != "interactions":
            if times is None or runs != 1:
                raise ValueError(
                    f"{policy.kind} has its half-life in {policy.unit}, but this log has no clock; use interactions."
                )
            self.times = times
        begin = 0.0 if self.times is None or not len(self.times) else float(self.times[0])
        self.decay = None if policy.half_life is None else ForwardDecay(half_life=policy.half_life, epoch=begin)
        self.learned = 0

    def evidence(self, rows: Array) -> ArmEvidence:
        """What is known when each run meets its row; rows: shape (runs,); arrays of shape (runs, arms)."""
        scale = 1.0 if self.decay is None else self.decay.scale(self._now(rows))
        here = (slice(None), self.each, self.categories[rows])
        pulls, totals, squares = self.sums[here] * scale
        more: dict[str, Any] = {}
        if self.priors is not None:
            prior_pulls, prior_totals = self.priors
            more |= {"prior_pulls": prior_pulls[self.categories[rows]], "prior_totals": prior_totals[self.categories[rows]]}
        if self.reads_elsewhere:
            elsewhere = self.sums * scale
            if self.priors is not None:
                elsewhere += np.stack([prior_pulls, prior_totals, prior_totals])[:, None]
            elsewhere[here] = 0.0
            more |= dict(zip(("elsewhere_pulls", "elsewhere_totals", "elsewhere_squares"), elsewhere, strict=True))
        if self.contexts is not None:
            more |= {"context": self.contexts[rows], "designs": self.designs * scale, "responses": self.responses * scale}
        return ArmEvidence(pulls=pulls, totals=totals, squares=squares, **more)

    def evidence_of_one(self, row: int) -> ArmEvidence:
        """The same for a table of one run, without the leading axis: arrays of shape (arms,)."""
        given = self.evidence(np.array([row]))
        values = {spec.name: getattr(given, spec.name) for spec in dataclasses.fields(given)}
        return ArmEvidence(**{name: None if value is None else value[0] for name, value in values.items()})

    def learn(self, rows: Array, arms: Array, rewards: Array) -> None:
        """One reward a run: rows, arms, rewards of shape (runs,)."""
        now = self._now(rows)
        if self.decay is not None and self.decay.rebase_due(now):
            self.decay, factor = self.decay.rebased(now)
            self.sums *= factor
            if self.contexts is not None:
                self.designs *= factor
                self.responses *= factor
        weight = 1.0 if self.decay is None else self.decay.weight(now)
        self.sums[:, self.each, self.categories[rows], arms] += weight * np.stack([np.ones_like(rewards), rewards, rewards**2])
        if self.contexts is not None:
            context = self.contexts[rows]
            self.designs[self.each, arms] += weight * context[:, :, None] * context[:, None, :]
            self.responses[self.each, arms] += weight * rewards[:, None] * context
        self.learned += 1

    def _now(self, rows: Array) -> float:
        """In the unit of the half-life: rewards so far, or the row's day."""
        return self.learned if self.times is None else float(self.times[rows[0]])
