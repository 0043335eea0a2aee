"""Policies that forget: every policy over evidence whose weight halves with a half-life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rewards.bandit.base import BasePolicy, parameter
from rewards.bandit.epsilon_greedy import EpsilonGreedy
from rewards.bandit.hierarchical_thompson import HierarchicalThompson
from rewards.bandit.lints import LinTS
from rewards.bandit.thompson import Thompson
from rewards.bandit.ucb1 import UCB1

REBASE_AFTER = 500.0  # half-lives; a double holds weights up to 2^1023


@dataclass(frozen=True, kw_only=True)
class ForwardDecay:
    """Weights that grow with time, so that old sums shrink beside new ones without being touched.

    A reward of time t adds weight 2^((t - epoch) / half_life) to the stored sums; read at `now`, the sums are multiplied by
    `scale(now)`. The order of rewards does not matter, late ones keep their own time, and each can be taken back exactly.

    Examples
    --------
    >>> decay = ForwardDecay(half_life=10)
    >>> stored = decay.weight(0) + decay.weight(10)
    >>> stored * decay.scale(now=20)
    0.75

    References
    ----------
    Cormode, Shkapenyuk, Srivastava & Xu (2009), Forward decay: a practical time decay model for streaming systems, ICDE.
    """

    half_life: float
    epoch: float = 0.0

    def weight(self, time: float) -> float:
        """What a reward of that time adds to the stored sums. Raises OverflowError 1,023 half-lives after the epoch."""
        return 2.0 ** ((time - self.epoch) / self.half_life)

    def scale(self, now: float) -> float:
        """Factor from stored sums to those in which a reward of `now` weighs 1."""
        return 2.0 ** ((self.epoch - now) / self.half_life)

    def rebase_due(self, now: float) -> bool:
        """Whether stored sums should move to a later epoch, before weights grow out of a double's range."""
        return now - self.epoch > REBASE_AFTER * self.half_life

    def rebased(self, epoch: float) -> tuple[ForwardDecay, float]:
        """(decay from the later epoch, factor by which to multiply every stored sum)."""
        return ForwardDecay(half_life=self.half_life, epoch=epoch), self.scale(epoch)


@dataclass(frozen=True, kw_only=True)
class Discounted(BasePolicy):
    """A policy whose evidence fades: a reward weighs half as much after `half_life`. For agents or questions that change.

    Parameters
    ----------
    half_life: in interactions with feedback, or in days; 200 keeps about the last 300 rewards in mind.
    unit: interactions or days.

    The policy's own arithmetic is unchanged; who hands it the evidence weighs it (ForwardDecay). With UCB1 this is discounted
    UCB (Garivier & Moulines, 2011), with Thompson sampling discounted Thompson sampling (Raj & Kalyani, 2017).
    """

    half_life: float = parameter(200.0, low=1.0, high=1e9, help="A reward weighs half as much after this time.")
    unit: str = parameter("interactions", choices=("interactions", "days"), help="What the half-life counts.")


@dataclass(frozen=True, kw_only=True)
class DiscountedThompson(Discounted, Thompson):
    kind: ClassVar[str] = "discounted_thompson"


@dataclass(frozen=True, kw_only=True)
class DiscountedUCB1(Discounted, UCB1):
    kind: ClassVar[str] = "discounted_ucb1"


@dataclass(frozen=True, kw_only=True)
class DiscountedEpsilonGreedy(Discounted, EpsilonGreedy):
    kind: ClassVar[str] = "discounted_epsilon_greedy"


@dataclass(frozen=True, kw_only=True)
class DiscountedHierarchicalThompson(Discounted, HierarchicalThompson):
    kind: ClassVar[str] = "discounted_hierarchical_thompson"


@dataclass(frozen=True, kw_only=True)
class DiscountedLinTS(Discounted, LinTS):
    kind: ClassVar[str] = "discounted_lints"
