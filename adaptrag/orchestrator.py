"""query and compare: the one place where routing, answering and logging meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.utils import timezone

from adaptrag.common.errors import AdaptRAGError, InvalidInput
from adaptrag.common.ids import uuid7
from agents.classifier import CATEGORIES, classify
from agents.errors import AgentFailed, NothingIngested, UnknownCollection
from agents.llm.base import Message, OnText
from agents.models import TOP_K_MAX, AgentVariant, Collection
from agents.selectors import collection_for, live_variant, live_variants, variants_ready
from agents.services import agent_answer
from agents.strategies.base import AgentRequest
from evals.services import experiment_assign
from rewards.models import Interaction
from rewards.router import BanditRouter, RoutingDecision
from rewards.services import interaction_log

logger = logging.getLogger(__name__)

# All earlier turns together: beyond any window of the models here, and far below what a body may hold.
MESSAGES_CHARS_MAX = 100_000
COMPARE_AGENTS_MAX = 10


@dataclass(frozen=True, kw_only=True)
class QueryRequest:
    """A question as a caller asks it.

    `top_k` is the collection's if absent; `agent` forces one, `candidates` narrows those that the policy chooses from;
    `collections` are the names that the caller may see (None: all).
    """

    question: str
    messages: tuple[Message, ...] = ()
    session: str = ""
    top_k: int | None = None
    agent: str | None = None
    candidates: tuple[str, ...] | None = None
    category: str | None = None
    collection: str | None = None
    collections: frozenset[str] | None = None
    user: Any = None


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """The same question for several agents, side by side."""

    question: str
    agents: tuple[str, ...]
    top_k: int | None = None
    collection: str | None = None
    collections: frozenset[str] | None = None
    user: Any = None


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    interaction_id: UUID
    agent: str
    revision: int
    category: str
    routing: dict[str, Any]
    answer: str = ""
    sources: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    fallback: dict[str, Any] | None = None
    latency_ms: float = 0.0
    error: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The API's form of a result."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values |= {"interaction_id": str(self.interaction_id), "latency_ms": round(self.latency_ms, 1)}
        if self.error is None:
            del values["error"]
        return values


def query(
    request: QueryRequest, *, on_text: OnText | None = None, on_routed: Callable[[dict[str, Any]], None] | None = None
) -> QueryResult:
    """Route a question, answer it, log it.

    `on_routed` gets {interaction_id, agent, revision, category, routing} before the agent starts; `on_text` gets the answer's
    pieces. A failure is logged as a failed interaction and raised with its `interaction_id` in the details.
    """
    question = question_checked(request.question)
    collection = _visible(request.collection, request.collections)
    top_k = _top_k(request.top_k, collection)
    category = _category(request.category, question)
    if request.agent is None:
        # Who narrows the candidates asks for a choice among them, not for an experiment's.
        decision = experiment_assign(request.session, category, collection) if request.candidates is None else None
        if decision is None:
            candidates = _candidates(request.candidates, collection)
            decision = BanditRouter().route(
                category, candidates, question=question, session=request.session, relax=request.candidates is None
            )
        variant, routing = decision.variant, _bandit_routing(decision)
        mode, logged = decision.mode, _logged_routing(decision)
    else:
        variant = live_variant(request.agent)
        mode, logged = Interaction.Mode.MANUAL, {}
        routing = _forced_routing(mode)
    agent_request = AgentRequest(question=question, messages=request.messages, collection=collection, top_k=top_k)
    return _answered(
        variant,
        agent_request,
        category=category,
        mode=mode,
        routing=routing,
        logged=logged,
        session=request.session,
        user=request.user,
        on_text=on_text,
        on_routed=on_routed,
    )


def compare(request: CompareRequest) -> list[QueryResult]:
    """Every named agent's answer to one question, in the order asked for.

    An agent that fails gives a result with `error`; the others still answer. Ratings of these answers count for no arm.
    """
    question = question_checked(request.question)
    names = list(dict.fromkeys(request.agents))
    if not 1 <= len(names) <= COMPARE_AGENTS_MAX:
        raise InvalidInput(f"Compare between 1 and {COMPARE_AGENTS_MAX} agents, not {len(names)}.", field="agents")
    variants = [live_variant(name) for name in names]
    collection = _visible(request.collection, request.collections)
    top_k = _top_k(request.top_k, collection)
    category = classify(question)
    agent_request = AgentRequest(question=question, collection=collection, top_k=top_k)

    def one(variant: AgentVariant) -> QueryResult:
        mode = Interaction.Mode.COMPARE
        try:
            return _answered(
                variant,
                agent_request,
                category=category,
                mode=mode,
                routing=_forced_routing(mode),
                logged={},
                user=request.user,
            )
        except AdaptRAGError as error:
            return QueryResult(
                interaction_id=UUID(error.details["interaction_id"]),
                agent=variant.name,
                revision=variant.revision,
                category=category,
                routing=_forced_routing(mode),
                error={"code": error.code, "message": error.message},
            )

    def one_in_thread(variant: AgentVariant) -> QueryResult:
        with closing(connection):
            return one(variant)

    # A surrounding transaction belongs to this thread alone: other threads would not see its rows.
    if connection.in_atomic_block or len(variants) == 1:
        return [one(variant) for variant in variants]
    with ThreadPoolExecutor(max_workers=len(variants)) as pool:
        return list(pool.map(one_in_thread, variants))


def question_checked(question: Any) -> str:
    """The question without outer white space. Raises InvalidInput where it is no text, empty, too long or not storable."""
    if not isinstance(question, str):
        raise InvalidInput(f"The question must be text, not {type(question).__name__}.", field="question")
    question = question.strip()
    if not question:
        raise InvalidInput("The question is empty. Ask something in words.", field="question")
    if len(question) > settings.ADAPTRAG_MAX_QUESTION_CHARS:
        raise InvalidInput(
            f"The question has {len(question):,} characters; at most {settings.ADAPTRAG_MAX_QUESTION_CHARS:,} are taken. "
            "Upload long texts as documents and ask about them.",
            field="question",
        )
    if "\x00" in question or any(0xD800 <= ord(character) <= 0xDFFF for character in question):
        raise InvalidInput(
            "The question holds a NUL or a lone surrogate, which is not valid text. Send UTF-8.", field="question"
        )
    return question


def _answered(
    variant: AgentVariant,
    request: AgentRequest,
    *,
    category: str,
    mode: str,
    routing: dict[str, Any],
    logged: dict[str, Any],
    session: str = "",
    user: Any = None,
    on_text: OnText | None = None,
    on_routed: Callable[[dict[str, Any]], None] | None = None,
) -> QueryResult:
    interaction_id, created_at, begun = uuid7(), timezone.now(), time.perf_counter()
    if on_routed:
        on_routed(
            {
                "interaction_id": str(interaction_id),
                "agent": variant.name,
                "revision": variant.revision,
                "category": category,
                "routing": routing,
            }
        )
    common = {
        "id": interaction_id,
        "created_at": created_at,
        "question": request.question,
        "messages": [message.as_dict() for message in request.messages],
        "session": session,
        "collection": request.collection,
        "category": category,
        "variant": variant,
        "top_k": request.top_k,
        "mode": mode,
        "asked_by": user,
        **logged,
    }
    try:
        answer = agent_answer(variant, request, on_text=on_text)
    except Exception as error:
        expected = isinstance(error, AdaptRAGError)
        code, message = (error.code, error.message) if expected else (AgentFailed.code, repr(error))
        interaction_log(
            **common,
            state=Interaction.State.FAILED,
            error={"code": code, "message": message[:2000]},
            trace=list(getattr(error, "trace", ())),
            latency_ms=(time.perf_counter() - begun) * 1000,
        )
        if expected:
            error.details["interaction_id"] = str(interaction_id)
            raise
        logger.exception("agent %s failed on interaction %s", variant, interaction_id)
        raise AgentFailed(
            f"The agent {variant.name!r} failed unexpectedly. The interaction in the admin says how.",
            interaction_id=str(interaction_id),
        ) from error
    sources = answer.sources
    interaction_log(
        **common,
        answer=answer.text,
        sources=sources,
        trace=list(answer.trace),
        model=answer.model,
        fallback=answer.fallback,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        cost_usd=answer.usage.cost_usd,
        latency_ms=answer.latency_ms,
    )
    return QueryResult(
        interaction_id=interaction_id,
        agent=variant.name,
        revision=variant.revision,
        category=category,
        routing=routing,
        answer=answer.text,
        sources=sources,
        model=answer.model,
        fallback=answer.fallback,
        latency_ms=answer.latency_ms,
        usage={
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "cost_usd": answer.usage.cost_usd,
        },
    )


def _bandit_routing(decision: RoutingDecision) -> dict[str, Any]:
    return {
        "policy": decision.policy,
        "policy_revision": decision.policy_revision,
        "mode": decision.mode,
        "propensity": decision.propensity,
        "candidates": decision.candidates,
    }


def _logged_routing(decision: RoutingDecision) -> dict[str, Any]:
    return {
        "policy": decision.policy,
        "policy_revision": decision.policy_revision,
        "propensity": decision.propensity,
        "candidates": decision.candidates,
        "seed": decision.seed,
        "clock": decision.clock,
        "vector": decision.vector,
    }


def _forced_routing(mode: str) -> dict[str, Any]:
    """A choice that no policy made has no propensity, and off-policy evaluation leaves it out."""
    return {"policy": None, "policy_revision": None, "mode": str(mode), "propensity": None, "candidates": []}


def _candidates(names: tuple[str, ...] | None, collection: Collection) -> list[AgentVariant]:
    if names is None:
        return variants_ready(live_variants(), collection)
    named = {variant.pk: variant for variant in map(live_variant, names)}
    # An agent's canary is tried wherever the agent may be chosen.
    return [*named.values(), *(one for one in live_variants() if one.name in names and one.pk not in named)]


def _category(category: str | None, question: str) -> str:
    if category is None:
        return classify(question)
    if category not in CATEGORIES:
        raise InvalidInput(f"Unknown category {category!r}; there are {', '.join(CATEGORIES)}.", field="category")
    return category


def _top_k(top_k: int | None, collection: Collection) -> int:
    if top_k is None:
        return collection.top_k
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= TOP_K_MAX:
        raise InvalidInput(f"top_k must be a whole number from 1 to {TOP_K_MAX}, not {top_k!r}.", field="top_k")
    return top_k


def _visible(name: str | None, allowed: Sequence[str] | frozenset[str] | None) -> Collection:
    try:
        collection = collection_for(name)
    except (NothingIngested, UnknownCollection):
        if allowed is None:
            raise
        collection = None
    # One that is hidden and one that does not exist get the same words: a key learns nothing about what it may not see.
    if allowed is not None and (collection is None or collection.name not in allowed):
        wanted = name or settings.ADAPTRAG_DEFAULT_COLLECTION
        raise UnknownCollection(f"There is no collection {wanted!r} that this key may use.", field="collection")
    return collection
