"""Agents: registering, revising, switching, and getting an answer from one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from adaptrag.common.errors import Conflict, InvalidInput
from agents.errors import ChatModelUnavailable, IndexNotReady
from agents.events import answering_changed
from agents.llm.adapters import folder_name
from agents.llm.base import ChatModel, OnText
from agents.llm.factory import absent_model, chat_model, validate_options
from agents.models import AgentVariant, ModelArtifact, slug_validator
from agents.retrieval.external import external_search
from agents.retrieval.search import current_build, retrieve
from agents.selectors import LIVE_STATES
from agents.services.derived import derived_enqueue, derived_enqueue_missing
from agents.services.images import image_url
from agents.services.tables import StoredTables
from agents.strategies import STRATEGIES
from agents.strategies.base import AgentAnswer, AgentRequest, Strategy, Tools
from agents.strategies.lora_rag import LoraRAG
from agents.strategies.quantized_rag import QuantizedRAG

# Those that the shipped model serves well, on any collection; docs/decisions/0008-agent-families.md.
DEFAULT_AGENTS = (
    "naive_rag",
    "hybrid_rag",
    "agentic_rag",
    "sentence_window_rag",
    "parent_child_rag",
    "hyde_rag",
    "corrective_rag",
    "graph_rag",
)
_REVISABLE = ("strategy", "chat_backend", "chat_model", "chat_options", "artifact", "parameters", "inherit")


def agent_validate(*, strategy: str, chat_backend: str, chat_options: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Raises InvalidInput naming what is wrong with a variant's configuration."""
    if strategy not in STRATEGIES:
        raise InvalidInput(f"Unknown strategy {strategy!r}; there are {', '.join(sorted(STRATEGIES))}.", field="strategy")
    STRATEGIES[strategy].Parameters.from_dict(parameters)
    validate_options(chat_backend, chat_options)


def agent_name_check(name: str) -> None:
    """Raises InvalidInput where no agent can have that name."""
    try:
        slug_validator(name)
    except ValidationError as error:
        raise InvalidInput(f"No agent can be called {name!r}. {error.messages[0]}", field="agent") from error


@transaction.atomic
def agent_register(
    *,
    name: str,
    strategy: str,
    chat_backend: str = "local",
    chat_model: str = "",
    chat_options: dict[str, Any] | None = None,
    artifact: ModelArtifact | None = None,
    predecessor: AgentVariant | None = None,
    parameters: dict[str, Any] | None = None,
    state: str = AgentVariant.State.ACTIVE,
    enabled: bool = True,
    inherit: float = 0.5,
    note: str = "",
    user: Any = None,
) -> AgentVariant:
    """A new agent, revision 1. Raises InvalidInput, or Conflict where the name is taken (revise that agent instead) or the
    limits on traffic can't be kept with one more agent.

    predecessor: another agent whose evidence it inherits in part.
    """
    if AgentVariant.objects.filter(name=name).exists():
        raise Conflict(
            f"There is an agent {name!r} already. Change it (that makes a new revision) or choose another name.", field="name"
        )
    variant = AgentVariant(
        name=name,
        strategy=strategy,
        chat_backend=chat_backend,
        chat_model=chat_model,
        chat_options=chat_options or {},
        artifact=artifact,
        predecessor=predecessor,
        parameters=parameters or {},
        state=state,
        enabled=enabled,
        inherit=inherit,
        note=note,
        created_by=user,
    )
    return _told(_saved(variant))


@transaction.atomic
def agent_revise(variant: AgentVariant, *, user: Any = None, **changes: Any) -> AgentVariant:
    """The next revision of an agent, with `changes` to what it does.

    Interactions keep the revision that they used. A new revision that takes traffic at once retires the older ones; a
    candidate leaves them in place. What is changed of a canary is a candidate again: no gate has seen it.
    """
    newest = AgentVariant.objects.select_for_update().filter(name=variant.name).order_by("-revision").first()
    if unknown := sorted(set(changes) - {*_REVISABLE, "state", "enabled", "note"}):
        raise InvalidInput(f"A revision can't change {unknown[0]!r}; it can change {', '.join(_REVISABLE)}.")
    values = {name: getattr(variant, name) for name in (*_REVISABLE, "enabled", "note")} | changes
    values.setdefault("state", newest.state if newest.state != AgentVariant.State.CANARY else AgentVariant.State.CANDIDATE)
    revised = AgentVariant(name=variant.name, revision=newest.revision + 1, predecessor=variant, created_by=user, **values)
    _saved(revised)
    if revised.state == AgentVariant.State.ACTIVE:
        for older in AgentVariant.objects.filter(name=variant.name, revision__lt=revised.revision).exclude(
            state=AgentVariant.State.RETIRED
        ):
            agent_set_state(older, AgentVariant.State.RETIRED, user=user, decided=True)
    return _told(revised)


@transaction.atomic
def agent_set_enabled(variant: AgentVariant, enabled: bool, user: Any = None) -> AgentVariant:
    """Switch an agent on or off for routing; its evidence stays. Raises Conflict where the limits on traffic can't be kept
    with the agents that answer then."""
    variant.enabled = enabled
    variant._history_user = user
    variant.save(update_fields=["enabled"])
    derived_enqueue_missing(user)
    if variant.state in LIVE_STATES:
        answering_changed.send(AgentVariant, variant=variant)
    return variant


@transaction.atomic
def agent_set_state(variant: AgentVariant, state: str, user: Any = None, *, decided: bool = False) -> AgentVariant:
    """Move a variant to another state of its life. Raises InvalidInput for a state that does not exist, Conflict where the
    limits on traffic can't be kept with the agents that answer then.

    decided: the step is part of another, which looks after the limits itself; a guard's rollback must never be refused."""
    if state not in AgentVariant.State.values:
        raise InvalidInput(f"Unknown state {state!r}; there are {', '.join(AgentVariant.State.values)}.", field="state")
    lives = variant.state in LIVE_STATES or state in LIVE_STATES
    variant.state = state
    variant._history_user = user
    variant.save(update_fields=["state"])
    derived_enqueue_missing(user)
    if lives and not decided:
        answering_changed.send(AgentVariant, variant=variant)
    return variant


def agents_register_defaults(user: Any = None, *, also: Sequence[str] = ()) -> list[AgentVariant]:
    """The agents of a fresh installation, on the shipped model, and those of the strategies `also`, which some collections
    alone make sense of. Does nothing where any agent exists."""
    with transaction.atomic():
        if AgentVariant.objects.exists():
            return []
        names = (*DEFAULT_AGENTS, *also)
        return [agent_register(name=name, strategy=name, note="Registered at set-up.", user=user) for name in names]


def agent_strategy(variant: AgentVariant) -> Strategy:
    strategy = STRATEGIES.get(variant.strategy)
    if strategy is None:
        raise Conflict(f"Agent {variant} uses the strategy {variant.strategy!r}, which is not there; revise or retire it.")
    return strategy(strategy.Parameters.from_dict(variant.parameters))


def agent_chat(variant: AgentVariant) -> ChatModel:
    """The chat model of an agent: the build that is its artifact, or its model with an adapter, which is the artifact or for
    lora_rag the folder that LORA_ADAPTERS_PATH names.

    Where the adapter can't be loaded, the model of the row's `fallback` answers, and no other.
    """
    options = variant.chat_options
    if variant.artifact_id is not None and variant.artifact.kind != ModelArtifact.Kind.ADAPTER:
        return chat_model(variant.chat_backend, variant.artifact.name, options)
    if variant.artifact_id is not None:
        options = {"adapter": {"name": variant.artifact.name, "path": str(variant.artifact.folder)}} | options
    elif variant.strategy == QuantizedRAG.name:
        error = ChatModelUnavailable("This agent has no build. Make one (manage.py quantize) and choose it as its artifact.")
        return absent_model(variant.name, error, options)
    elif variant.strategy == LoraRAG.name and "adapter" not in options:
        try:
            options = options | {"adapter": _configured_adapter()}
        except ChatModelUnavailable as error:
            return absent_model(variant.chat_model or variant.name, error, options)
    return chat_model(variant.chat_backend, variant.chat_model, options)


def _configured_adapter() -> dict[str, str]:
    folder = settings.LORA_ADAPTERS_PATH
    if not folder:
        raise ChatModelUnavailable(
            "This agent has no adapter. Train one (manage.py train_lora), or set LORA_ADAPTERS_PATH to an adapter folder."
        )
    path = Path(folder).expanduser().resolve()
    return {"name": folder_name(path), "path": str(path)}


def agent_answer(variant: AgentVariant, request: AgentRequest, *, on_text: OnText | None = None) -> AgentAnswer:
    """The one way to an answer: API, chat page, comparison, evaluation and simulation all come here.

    Raises NothingIngested, ChatModelUnavailable, ChatModelTimeout, InvalidInput; such an error carries the steps so far as
    its `trace` attribute, and what they cost as `usage`.
    """
    begun = time.perf_counter()
    tools = Tools(
        collection=request.collection,
        chat=agent_chat(variant),
        retrieve=retrieve,
        ready=current_build,
        external=external_search(),
        tables=StoredTables(),
        image=image_url,
        on_text=on_text,
    )
    try:
        draft = agent_strategy(variant).answer(request, tools)
    except Exception as error:
        error.trace, error.usage = tuple(tools.trace), tools.usage
        if isinstance(error, IndexNotReady) and (job := derived_enqueue(request.collection, [error.details["kind"]])):
            error.details["job"] = job.pk
        raise
    return AgentAnswer(
        text=draft.text,
        passages=tuple(dataclasses.replace(passage, rank=rank) for rank, passage in enumerate(draft.passages, start=1)),
        used=tuple(passage.chunk_id for passage in draft.used),
        trace=tuple(tools.trace),
        usage=tools.usage,
        model=tools.model,
        fallback=tools.fallback,
        latency_ms=(time.perf_counter() - begun) * 1000,
    )


def _told(variant: AgentVariant) -> AgentVariant:
    if variant.enabled and variant.state in LIVE_STATES:
        answering_changed.send(AgentVariant, variant=variant)
    return variant


def _saved(variant: AgentVariant) -> AgentVariant:
    agent_validate(
        strategy=variant.strategy,
        chat_backend=variant.chat_backend,
        chat_options=variant.chat_options,
        parameters=variant.parameters,
    )
    try:
        variant.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(f"{field}: {messages[0]}", field=field) from error
    variant._history_user = variant.created_by
    variant.save()
    derived_enqueue_missing(variant.created_by)
    return variant
