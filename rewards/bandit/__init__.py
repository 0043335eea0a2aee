"""Bandit policies: pure arithmetic on arrays, one policy a module."""

from rewards.bandit.base import ArmEvidence, Policy, draw, project
from rewards.bandit.discounted import (
    DiscountedEpsilonGreedy,
    DiscountedHierarchicalThompson,
    DiscountedLinTS,
    DiscountedThompson,
    DiscountedUCB1,
    ForwardDecay,
)
from rewards.bandit.epsilon_greedy import EpsilonGreedy
from rewards.bandit.hierarchical_thompson import HierarchicalThompson
from rewards.bandit.lints import LinTS
from rewards.bandit.thompson import Thompson
from rewards.bandit.ucb1 import UCB1

# What the router can run, and what replay can run besides: those need evidence that no row keeps yet.
POLICIES: dict[str, type[Policy]] = {policy.kind: policy for policy in (Thompson, UCB1, EpsilonGreedy)}
ALL_POLICIES: dict[str, type[Policy]] = POLICIES | {
    policy.kind: policy
    for policy in (
        HierarchicalThompson,
        LinTS,
        DiscountedThompson,
        DiscountedUCB1,
        DiscountedEpsilonGreedy,
        DiscountedHierarchicalThompson,
        DiscountedLinTS,
    )
}

__all__ = [
    "ALL_POLICIES",
    "POLICIES",
    "UCB1",
    "ArmEvidence",
    "DiscountedEpsilonGreedy",
    "DiscountedHierarchicalThompson",
    "DiscountedLinTS",
    "DiscountedThompson",
    "DiscountedUCB1",
    "EpsilonGreedy",
    "ForwardDecay",
    "HierarchicalThompson",
    "LinTS",
    "Policy",
    "Thompson",
    "draw",
    "project",
]
