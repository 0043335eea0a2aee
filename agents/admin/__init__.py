"""Admin pages of what can answer. Agents themselves are registered by rewards.admin, which adds what was learned."""

from __future__ import annotations

from agents.admin.collections import CollectionAdmin, IndexBuildAdmin
from agents.admin.documents import DocumentAdmin
from agents.admin.variants import AgentVariantAdmin

__all__ = ["AgentVariantAdmin", "CollectionAdmin", "DocumentAdmin", "IndexBuildAdmin"]
