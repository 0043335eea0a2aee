"""What happened (interactions, rewards) and what was learned from it (arms, priors, the routing policy)."""

from rewards.models.evidence import BanditArm, LearningClock, LinearArm, PriorReward
from rewards.models.log import Interaction, Pull, QuestionVector, Reward
from rewards.models.promotion import Canary, PromotionDecision
from rewards.models.routing import AgentLimit, CategoryPin, RoutingPolicy
from rewards.models.sums import LogChange, LogSums

__all__ = [
    "AgentLimit",
    "BanditArm",
    "Canary",
    "CategoryPin",
    "Interaction",
    "LearningClock",
    "LinearArm",
    "LogChange",
    "LogSums",
    "PriorReward",
    "PromotionDecision",
    "Pull",
    "QuestionVector",
    "Reward",
    "RoutingPolicy",
]
