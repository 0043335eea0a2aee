"""Linear Thompson sampling on the question's vector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rewards.bandit.base import ArmEvidence, Array, BasePolicy, parameter
from rewards.bandit.best_arm import best_of_normals


@dataclass(frozen=True, kw_only=True)
class LinTS(BasePolicy):
    """Thompson sampling with one ridge regression of the reward on the question's vector per arm.

    For when what is asked says more about which agent is best than its category does, and rewards come in thousands.

    Parameters
    ----------
    dimensions: length to which the embedding is reduced (`question_context`), before the constant.
    ridge: weight of the prior, in rewards: coefficients are drawn to 0, an arm's constant to the mean of all arms.
    exploration: scale of the posteriors' spread; 1 is Thompson sampling proper.

    Examples
    --------
    >>> design, response = np.zeros((2, 2, 2)), np.zeros((2, 2))
    >>> for arm, x, reward in [(0, 1, 1), (1, 1, 0), (0, -1, 0), (1, -1, 1)] * 10:
    ...     add_reward(design[arm], response[arm], np.array([1.0, x]), reward)
    >>> given = {"pulls": [20, 20], "totals": [10, 10], "designs": design, "responses": response}
    >>> LinTS(dimensions=1).probabilities(ArmEvidence(**given, context=[1, 1]), np.random.default_rng(0)).round(2)
    array([1., 0.])
    >>> LinTS(dimensions=1).probabilities(ArmEvidence(**given, context=[1, -1]), np.random.default_rng(0)).round(2)
    array([0., 1.])

    References
    ----------
    Agrawal & Goyal (2013), Thompson sampling for contextual bandits with linear payoffs, ICML.
    """

    kind: ClassVar[str] = "lints"
    reads_question: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    dimensions: int = parameter(16, low=1, high=256, help="Length to which the question's embedding is reduced.")
    ridge: float = parameter(10.0, low=0.01, high=1e6, help="Weight of the prior, in rewards.")
    exploration: float = parameter(0.4, low=0.05, high=2.0, help="Spread of the posteriors; 1 is Thompson sampling proper.")

    def probabilities(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        return best_of_normals(*self.posterior(evidence))

    def choose(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        means, deviations = self.posterior(evidence)
        return (means + deviations * rng.standard_normal(means.shape)).argmax(axis=-1)

    def posterior(self, evidence: ArmEvidence) -> tuple[Array, Array]:
        """(means, deviations) of each arm's expected reward to this question, shape (..., K).

        Raises ValueError without context, designs and responses, or where their shapes differ from `dimensions` + 1."""
        if evidence.context is None or evidence.designs is None or evidence.responses is None:
            raise ValueError(f"{self.kind} needs the question's vector (context) and each arm's designs and responses.")
        length = self.dimensions + 1
        context, designs, responses = evidence.context, evidence.designs, evidence.responses
        shape = evidence.pulls.shape
        if context.shape[-1:] != (length,) or designs.shape != (*shape, length, length) or responses.shape != (*shape, length):
            raise ValueError(
                f"{self.kind} with {self.dimensions} dimensions needs vectors of {length} numbers (the constant first) for "
                f"arms of shape {shape}, not context {context.shape}, designs {designs.shape}, responses {responses.shape}."
            )
        if evidence.prior_pulls is not None:
            # A prior speaks of the arm, not of any question: rewards whose vector is the constant alone.
            designs, responses = designs.copy(), responses.copy()
            designs[..., 0, 0] += evidence.prior_pulls
            responses[..., 0] += evidence.prior_totals
        pooled = (responses[..., 0].sum(axis=-1, keepdims=True) + 1) / (designs[..., 0, 0].sum(axis=-1, keepdims=True) + 2)
        precision = designs + self.ridge * np.eye(length)
        surprise = responses - pooled[..., None] * designs[..., 0]  # rewards less the mean of all arms, times their vectors
        right = np.stack([surprise, np.broadcast_to(context[..., None, :], surprise.shape)], axis=-1)
        solved = np.linalg.solve(precision, right)
        means = pooled + (solved[..., 0] * context[..., None, :]).sum(axis=-1)
        variances = (solved[..., 1] * context[..., None, :]).sum(axis=-1)
        return means, self.exploration * np.sqrt(pooled * (1 - pooled) * variances)


def add_reward(design: Array, response: Array, context: Array, reward: float, weight: float = 1.0) -> None:
    """Adds a reward to an arm's sums in place: design (D, D), response (D,), context (D,). A negative weight takes it back."""
    design += weight * np.outer(context, context)
    response += weight * reward * context


def question_context(embedding: Array, dimensions: int) -> Array:
    """A constant 1, then the embedding, shape (..., E), on `dimensions` fixed random directions; shape (..., dimensions + 1).

    The directions depend on (E, dimensions) alone, so every process and every replay uses the same; lengths are kept on
    average (Johnson & Lindenstrauss, 1984). Raises ValueError where the embedding has fewer than `dimensions` numbers."""
    embedding = np.asarray(embedding, dtype=float)
    if embedding.shape[-1] < dimensions:
        raise ValueError(f"an embedding of {embedding.shape[-1]} numbers cannot be reduced to {dimensions}.")
    reduced = embedding @ _directions(embedding.shape[-1], dimensions)
    return np.concatenate([np.ones((*reduced.shape[:-1], 1)), reduced], axis=-1)


@lru_cache(maxsize=8)
def _directions(length: int, dimensions: int) -> Array:
    orthonormal, _ = np.linalg.qr(np.random.default_rng((length, dimensions)).standard_normal((length, dimensions)))
    return orthonormal * np.sqrt(length / dimensions)
