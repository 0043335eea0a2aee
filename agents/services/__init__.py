"""Every change to agents, collections and documents, one function each."""

from __future__ import annotations

from agents.services.agents import (
    agent_answer,
    agent_register,
    agent_revise,
    agent_set_enabled,
    agent_set_state,
    agent_validate,
    agents_register_defaults,
)

__all__ = [
    "agent_answer",
    "agent_register",
    "agent_revise",
    "agent_set_enabled",
    "agent_set_state",
    "agent_validate",
    "agents_register_defaults",
]
