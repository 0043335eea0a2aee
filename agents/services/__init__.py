"""Every change to agents, collections and documents, one function each."""

from __future__ import annotations

from agents.services.agents import (
    agent_answer,
    agent_name_check,
    agent_register,
    agent_revise,
    agent_set_enabled,
    agent_set_state,
    agent_validate,
    agents_register_defaults,
)
from agents.services.collections import (
    collection_get_or_create,
    collection_index,
    collection_index_enqueue,
    collection_refresh,
    collection_save,
    collection_set_top_k,
)
from agents.services.corpus import CorpusResult, beir_collection, corpus_add
from agents.services.derived import derived_enqueue, derived_enqueue_missing, derived_prepare, derived_refresh
from agents.services.documents import DocumentResult, document_add, document_delete, document_read, documents_delete

__all__ = [
    "CorpusResult",
    "DocumentResult",
    "agent_answer",
    "agent_name_check",
    "agent_register",
    "agent_revise",
    "agent_set_enabled",
    "agent_set_state",
    "agent_validate",
    "agents_register_defaults",
    "beir_collection",
    "collection_get_or_create",
    "collection_index",
    "collection_index_enqueue",
    "collection_refresh",
    "collection_save",
    "collection_set_top_k",
    "corpus_add",
    "derived_enqueue",
    "derived_enqueue_missing",
    "derived_prepare",
    "derived_refresh",
    "document_add",
    "document_delete",
    "document_read",
    "documents_delete",
]
