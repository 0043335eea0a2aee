"""Bandit policies: pure arithmetic on arrays, one policy a module."""

from rewards.bandit.base import ArmEvidence, Policy, draw, project
from rewards.bandit.epsilon_greedy import EpsilonGreedy
from rewards.bandit.thompson import Thompson
from rewards.bandit.ucb1 import UCB1

POLICIES: dict[str, type[Policy]] = {policy.kind: policy for policy in (Thompson, UCB1, EpsilonGreedy)}

__all__ = ["POLICIES", "UCB1", "ArmEvidence", "EpsilonGreedy", "Policy", "Thompson", "draw", "project"]
