"""Every change to interactions, rewards, arms, priors and policies, one function each."""

from __future__ import annotations

from rewards.services.arms import arms_rebuild, learning_reset
from rewards.services.exports import ExportResult, log_export
from rewards.services.feedback import FeedbackResult, feedback_record
from rewards.services.imports import ImportResult, log_import
from rewards.services.interactions import interaction_log
from rewards.services.policies import (
    agent_limit_remove,
    agent_limit_set,
    agent_pause,
    category_pin,
    policy_activate,
    policy_save,
    prior_set,
)
from rewards.services.promotions import (
    NextStep,
    canaries_of,
    decisions_waiting,
    promotions_watch,
    rollback_target,
    variant_gate,
    variant_next,
    variant_promote,
    variant_retire,
    variant_rollback,
)
from rewards.services.standing import canary_standing, thresholds

__all__ = [
    "ExportResult",
    "FeedbackResult",
    "ImportResult",
    "NextStep",
    "agent_limit_remove",
    "agent_limit_set",
    "agent_pause",
    "arms_rebuild",
    "canaries_of",
    "canary_standing",
    "category_pin",
    "decisions_waiting",
    "feedback_record",
    "interaction_log",
    "learning_reset",
    "log_export",
    "log_import",
    "policy_activate",
    "policy_save",
    "prior_set",
    "promotions_watch",
    "rollback_target",
    "thresholds",
    "variant_gate",
    "variant_next",
    "variant_promote",
    "variant_retire",
    "variant_rollback",
]
