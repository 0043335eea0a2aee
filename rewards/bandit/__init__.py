"""Bandit policies: pure arithmetic on arrays, one policy a module."""

from rewards.bandit.base import ArmEvidence, Policy, divided_caps, draw, project, traffic_bounds
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

POLICIES: dict[str, type[Policy]] = {
    policy.kind: policy
    for policy in (
        HierarchicalThompson,
        Thompson,
        LinTS,
        UCB1,
        EpsilonGreedy,
        DiscountedHierarchicalThompson,
        DiscountedThompson,
        DiscountedLinTS,
        DiscountedUCB1,
        DiscountedEpsilonGreedy,
    )
}

__all__ = [
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
    "divided_caps",
    "draw",
    "project",
    "traffic_bounds",
]
