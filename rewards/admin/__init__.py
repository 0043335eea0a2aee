"""Admin pages of what happened and what was learned."""

from __future__ import annotations

from rewards.admin.agents import LearningAgentAdmin
from rewards.admin.interactions import InteractionAdmin, RewardAdmin
from rewards.admin.learning import BanditArmAdmin, PriorRewardAdmin, RoutingPolicyAdmin
from rewards.admin.promotions import PromotionDecisionAdmin
from rewards.admin.traffic import AgentLimitAdmin, CategoryPinAdmin

__all__ = [
    "AgentLimitAdmin",
    "BanditArmAdmin",
    "CategoryPinAdmin",
    "InteractionAdmin",
    "LearningAgentAdmin",
    "PriorRewardAdmin",
    "PromotionDecisionAdmin",
    "RewardAdmin",
    "RoutingPolicyAdmin",
]
