"""What every policy shares: the evidence it is given, its validated parameters, and the step from probabilities to an arm."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

Array = np.ndarray
SLACK = 1e-9  # rounding allowed where sums of floats must agree


@dataclass(frozen=True, kw_only=True)
class ArmEvidence:
    """What is known of K candidate arms in one category. Rewards lie in [0, 1], so 0 <= totals <= pulls.

    pulls, totals: float arrays, shape (..., K): number of rewards (or their decayed weight) and their sum. Leading axes are
    independent problems that are solved at once (replay runs its shuffles so).
    prior_pulls, prior_totals: what is assumed before any reward, shape (..., K).
    elsewhere_pulls, elsewhere_totals: the same arms in the other categories, shape (..., C, K), priors included: what
    hierarchical policies learn from. Rows of zeros add nothing; one row may hold the sum of several categories.
    squares, elsewhere_squares: sums of squared rewards, where they are known (a prior counts as rewards of 0 and 1).
    context: the question's vector, shape (..., D), its first entry 1; designs, responses: LinTS's sums per arm over all
    categories, shapes (..., K, D, D) and (..., K, D).
    Raises ValueError on shapes that disagree, values that are not finite, and totals outside [0, pulls].
    """

    pulls: Array
    totals: Array
    prior_pulls: Array | None = None
    prior_totals: Array | None = None
    elsewhere_pulls: Array | None = None
    elsewhere_totals: Array | None = None
    squares: Array | None = None
    elsewhere_squares: Array | None = None
    context: Array | None = None
    designs: Array | None = None
    responses: Array | None = None

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if value is not None:
                object.__setattr__(self, spec.name, np.asarray(value, dtype=float))
        shape = self.pulls.shape
        if not shape or shape[-1] == 0:
            raise ValueError("evidence needs at least one arm.")
        for what in ("", "prior_", "elsewhere_"):
            pulls, totals = getattr(self, f"{what}pulls"), getattr(self, f"{what}totals")
            if (pulls is None) != (totals is None):
                raise ValueError(f"{what}pulls and {what}totals come together.")
            if pulls is not None:
                _check_counts(what, pulls, totals, shape)

    @property
    def counts(self) -> Array:
        """Pulls, the priors' included; shape (..., K)."""
        return self.pulls if self.prior_pulls is None else self.pulls + self.prior_pulls

    @property
    def sums(self) -> Array:
        """Total rewards, the priors' included; shape (..., K)."""
        return self.totals if self.prior_totals is None else self.totals + self.prior_totals


def _check_counts(what: str, pulls: Array, totals: Array, shape: tuple[int, ...]) -> None:
    expected = (*shape[:-1], *pulls.shape[-2:-1], shape[-1]) if what == "elsewhere_" else shape
    agrees = pulls.shape == expected and pulls.ndim == len(shape) + (what == "elsewhere_")
    if not agrees or totals.shape != pulls.shape:
        raise ValueError(f"{what}pulls {pulls.shape} and {what}totals {totals.shape} do not fit arms of shape {shape}.")
    # One comparison catches NaN too: it is never >= 0.
    if not ((totals >= -SLACK) & (totals <= pulls * (1 + SLACK) + SLACK) & (pulls < math.inf)).all():
        raise ValueError(f"{what}totals must lie between 0 and {what}pulls, and both be finite: {totals} of {pulls}.")


@runtime_checkable
class Policy(Protocol):
    """The rule that picks an arm. Frozen and stateless: all that was learned is in the evidence."""

    kind: ClassVar[str]
    half_life: ClassVar[
        float | None
    ]  # None, or a parameter: the evidence's weights halve in that time (rewards.bandit.discounted)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Raises ValueError that names a parameter, its value and what is allowed."""

    def probabilities(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        """The probability of each arm, shape (K,), summing to 1. One problem at a time: no leading axes."""

    def choose(self, evidence: ArmEvidence, rng: np.random.Generator) -> Array:
        """An arm for each leading axis of the evidence, drawn from the same distribution as `probabilities`, often faster."""

    def describe(self) -> str:
        """One line for people: the rule with its parameters."""


def parameter(
    default: float | str,
    *,
    low: float = 0.0,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    help: str = "",
) -> Any:
    """A policy's parameter: a number in [low, high], or one of `choices`; a default that is an int asks for whole numbers."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices, "help": help})


class BasePolicy:
    """Validation and description of parameters; policies are frozen dataclasses of this."""

    kind: ClassVar[str]
    half_life: ClassVar[float | None] = None
    reads_elsewhere: ClassVar[bool] = False
    reads_question: ClassVar[bool] = False
    samples: ClassVar[bool] = False  # whether `probabilities` estimates with its rng, or the evidence alone determines them

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _validated(self.kind, spec, getattr(self, spec.name)))

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        known = [spec.name for spec in dataclasses.fields(cls)]
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            allowed = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"{cls.kind} has no parameter {unknown[0]!r}; {allowed}.")
        return cls(**parameters)

    def describe(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(self).items())
        return f"{self.kind}({values})"


def _validated(kind: str, spec: dataclasses.Field, value: Any) -> Any:
    rule = spec.metadata
    if rule["choices"]:
        if value not in rule["choices"]:
            raise ValueError(f"{kind}: {spec.name}={value!r} is not one of {', '.join(rule['choices'])}.")
        return value
    whole = isinstance(spec.default, int)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (whole and value != int(value)) or not rule["low"] <= value <= rule["high"]:
        upper = f" to {rule['high']:g}" if math.isfinite(rule["high"]) else " up"
        raise ValueError(
            f"{kind}: {spec.name}={value!r} must be a {'whole ' if whole else ''}number from {rule['low']:g}{upper}."
        )
    return int(value) if whole else float(value)


def share_among(best: Array) -> Array:
    """Equal probability to each arm marked in `best`, boolean, shape (..., K)."""
    return best / best.sum(axis=-1, keepdims=True)


def draw(probabilities: Array, rng: np.random.Generator | random.Random) -> int:
    """An arm's index, drawn with the given probabilities, shape (K,), by one `rng.random()`; never an arm of probability 0.

    Raises ValueError if they are negative, not finite, or do not sum to 1."""
    probabilities = np.asarray(probabilities, dtype=float)
    cumulative = probabilities.cumsum()
    if probabilities.size == 0 or not (probabilities >= 0).all() or not abs(cumulative[-1] - 1) < 1e-6:
        raise ValueError(f"not a probability vector: {probabilities}.")
    index = int(cumulative.searchsorted(rng.random() * cumulative[-1], side="right"))
    # Rounding can carry the product up to the last sum; the arm meant is then the last that has any probability.
    return index if index < len(cumulative) else int(np.flatnonzero(probabilities)[-1])


def traffic_bounds(
    min_share: float,
    bounds: Sequence[tuple[float | None, float | None]],
    sharing: Sequence[Sequence[int]] = (),
    *,
    relax: bool = False,
) -> tuple[Array, Array]:
    """(floors, caps), shape (K,), from a floor for all and each arm's own (least, largest) share, None where it has none.

    An arm whose own cap lies below the floor for all keeps to its cap. sharing: places of arms that all together keep to the
    cap of the first of them, whose floor makes room for the others'. Raises ValueError, with the remedy, where no probability
    vector keeps them all; with `relax` floors are lowered and caps raised in proportion until one does."""
    caps = np.array([1.0 if high is None else high for _, high in bounds])
    floors = np.minimum([min_share if low is None else low for low, _ in bounds], caps)
    count, total = len(bounds), caps.sum()
    for first, *others in sharing:
        room = caps[first]
        total -= caps[others].sum()  # the first's cap is what they have together
        for place in (*others, first):
            floors[place] = min(floors[place], room)
            room -= floors[place]
    if relax:
        floors = floors / max(floors.sum(), 1.0)
        if total < 1:
            caps = np.minimum(caps / total, 1.0) if total > SLACK else np.ones(count)
        return floors, caps
    if floors.sum() > 1 + SLACK:
        raise ValueError(
            f"{count} agents can't each keep their least share: together they ask for {floors.sum():.2%}. Lower the policy's "
            f"minimum share to at most {1 / count:.4f} and the agents' own least shares, or disable agents."
        )
    if total < 1 - SLACK:
        raise ValueError(
            f"the largest shares of {count} agents leave {1 - total:.2%} of the traffic to nobody. Raise some, or enable "
            "an agent without one."
        )
    return floors, caps


def divided_caps(wanted: Array, floors: Array, caps: Array, sharing: Sequence[Sequence[int]]) -> Array:
    """Caps, shape (K,), under which arms that share a cap keep to it: each but the first gets the share that it wants, between
    its floor and its own cap, and the first the rest. floors, caps, sharing: as of `traffic_bounds`; their sum stays feasible.

    >>> divided_caps(np.array([0.5, 0.3, 0.2]), np.array([0.02, 0.1, 0.02]), np.array([0.25, 0.2, 1]), [[0, 1]]).round(3)
    array([0.05, 0.2 , 1.  ])
    """
    caps = caps.copy()
    for first, *others in sharing:
        if caps[first] >= 1:
            continue
        room = caps[first] - floors[[first, *others]].sum()  # above the floors
        for place in others:
            more = min(max(min(wanted[place], caps[place]) - floors[place], 0.0), max(room, 0.0))
            caps[place], room = floors[place] + more, room - more
        caps[first] = floors[first] + max(room, 0.0)
    return caps


def project(probabilities: Array, floors: Array, caps: Array, incumbent: int) -> Array:
    """The probability vector that keeps every arm's share in [floor, cap], shape (K,).

    What caps cut off goes to the incumbent arm; the result is then the Euclidean projection onto
    {x: floors <= x <= caps, sum x = 1}, which moves the other arms by one common amount where their bounds allow.
    Raises ValueError where a floor exceeds its cap, floors sum to more than 1, or caps to less."""
    probabilities, floors, caps = (np.asarray(values, dtype=float) for values in (probabilities, floors, caps))
    if not 0 <= incumbent < len(probabilities):
        raise ValueError(f"incumbent {incumbent} is not one of {len(probabilities)} arms.")
    if not ((floors >= 0) & (floors <= caps + SLACK) & (caps <= 1 + SLACK)).all():
        raise ValueError(f"each share needs 0 <= minimum <= maximum <= 1: minimum {floors}, maximum {caps}.")
    if floors.sum() > 1 + SLACK:
        raise ValueError(f"minimum shares sum to {floors.sum():g}, more than 1; lower some of {floors}.")
    if caps.sum() < 1 - SLACK:
        raise ValueError(f"maximum shares sum to {caps.sum():g}, less than 1; raise some of {caps}.")
    wanted = np.minimum(probabilities, caps)
    wanted[incumbent] += 1 - wanted.sum()
    if ((wanted >= floors) & (wanted <= caps)).all():
        return wanted
    # x(shift) = clip(wanted - shift, floors, caps) sums to a piecewise linear, falling function of shift: find where it is 1.
    shifts = np.sort(np.concatenate([wanted - caps, wanted - floors]))
    sums = np.minimum(np.maximum(wanted - shifts[:, None], floors), caps).sum(axis=1)
    shift = np.interp(-1.0, -sums, shifts)
    return np.minimum(np.maximum(wanted - shift, floors), caps)
