"""Errors of documents, retrieval, chat models and strategies."""

from __future__ import annotations

from adaptrag.common.errors import AdaptRAGError, Conflict, InvalidInput, NotFound, Unavailable


class DocumentRejected(InvalidInput):
    """A file that can't become a document: empty, truncated, encrypted, too large, or not what its name says."""

    code = "document_rejected"
    status = 422


class UnknownAgent(NotFound):
    code = "unknown_agent"


class ImmutableVariant(Conflict):
    code = "immutable_variant"


class UnknownCollection(NotFound):
    code = "unknown_collection"


class NothingIngested(AdaptRAGError):
    """The collection has no searchable passage yet."""

    code = "nothing_ingested"
    status = 409


class IndexNotReady(Unavailable):
    """An agent needs an index that the collection doesn't have yet: sentences, children, a graph."""

    code = "index_not_ready"


class ExternalSearchFailed(Unavailable):
    """The external search is down, slow, or answers nonsense."""

    code = "external_search_failed"


class ChatModelUnavailable(Unavailable):
    """The chat model is down, refuses, or answers nonsense."""

    code = "chat_model_unavailable"


class ChatModelTimeout(ChatModelUnavailable):
    code = "chat_model_timeout"
    status = 504


OVERLOADED = "chat_model_overloaded"


class ChatModelOverloaded(ChatModelUnavailable):
    """A local model has more to do than it can answer soon, whoever asks: no fault of the agent that asked."""

    code = OVERLOADED


class PromptTooLong(InvalidInput):
    """Passages, conversation and question together exceed the chat model's window."""

    code = "prompt_too_long"


class AgentFailed(AdaptRAGError):
    """An agent broke in a way that nobody foresaw; the interaction's row and the log hold the details."""

    code = "agent_failed"
