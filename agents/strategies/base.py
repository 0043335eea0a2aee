"""What every RAG strategy shares: the request, the answer, the tools that trace each step, and parameter validation."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from adaptrag.common.errors import InvalidInput, NotFound
from agents.errors import ExternalSearchFailed
from agents.llm.base import ChatModel, Completion, Message, OnText, Usage
from agents.models import Collection
from agents.retrieval.around import Around
from agents.retrieval.base import Passage
from agents.retrieval.external import ExternalSearch
from agents.tables.query import KnownTable, QueryResult

LOGGED_CHARS = 20_000  # of all messages of one model call, in the trace
# Passages from so many characters on are named by their chunk there; one that was cut is known by its beginning.
SHORTEST_REPLACED, KNOWN_BY = 40, 100


@dataclass(frozen=True, kw_only=True)
class AgentRequest:
    """A question for one agent. `messages` are the earlier turns; `top_k` is how many passages are retrieved."""

    question: str
    collection: Collection
    messages: tuple[Message, ...] = ()
    top_k: int = 5


@dataclass(frozen=True, kw_only=True)
class AgentAnswer:
    """passages: best first. used: chunk ids of those in the prompt of the answer, in its order, so that used[n - 1] is what the
    answer cites as [n]; latency in milliseconds."""

    text: str
    passages: tuple[Passage, ...]
    used: tuple[int, ...]
    trace: tuple[dict[str, Any], ...]
    usage: Usage
    model: str
    fallback: dict[str, Any] | None
    latency_ms: float

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The n-th is what the answer cites as [n]: those in the prompt, in its order, then the others, best first."""
        shown = self.shown
        rest = [passage for passage in self.passages if passage.chunk_id not in set(self.used)]
        return [one.as_source() | {"used": used} for used, group in ((True, shown), (False, rest)) for one in group]

    @property
    def shown(self) -> list[Passage]:
        """The passages of the prompt, in its order."""
        found = {passage.chunk_id: passage for passage in self.passages}
        return [found[chunk] for chunk in self.used]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a strategy returns; the tools know the rest. used: the passages of the prompt whose answer this is, in its order,
    all of them among `passages`."""

    text: str
    passages: Sequence[Passage]
    used: Sequence[Passage]


class TableAccess(Protocol):
    """Tables of documents, and SQL over them: agents.services.tables."""

    def of(self, collection: Collection, documents: Sequence[int]) -> list[KnownTable]: ...

    def select(self, sql: str, tables: Sequence[KnownTable]) -> QueryResult: ...


class Tools:
    """Retrieval and the chat model as a strategy sees them. Every call leaves a step in the trace."""

    def __init__(
        self,
        *,
        collection: Collection,
        chat: ChatModel,
        retrieve: Callable[..., list[Passage]],
        ready: Callable[[Collection], Any] | None = None,
        external: ExternalSearch | None = None,
        tables: TableAccess | None = None,
        image: Callable[[Collection, int], str] | None = None,
        on_text: OnText | None = None,
    ) -> None:
        self._external = external
        self._tables = tables
        self._image = image
        self._collection = collection
        self._chat = chat
        self._retrieve = retrieve
        self._ready = ready
        self._started = time.perf_counter()
        self.on_text = on_text
        self.trace: list[dict[str, Any]] = []
        self._seen: dict[int, Passage] = {}
        self.usage = Usage()
        self.model = ""
        self.fallback: dict[str, Any] | None = None

    def retrieve(
        self,
        query: str,
        k: int,
        method: str,
        purpose: str = "question",
        *,
        around: Around | None = None,
        meanings: Sequence[str] = (),
    ) -> list[Passage]:
        """Search the collection; the options are those of agents.retrieval.search.retrieve."""
        begun = time.perf_counter()
        details: dict[str, Any] = {"purpose": purpose, "method": method, "query": query, "k": k}
        options: dict[str, Any] = {}
        if around is not None:
            options["around"], details["unit"] = around, around.unit
        if meanings:
            options["meanings"], details["meanings"] = tuple(meanings), list(meanings)
        try:
            passages = self._retrieve(self._collection, query, k, method, **options)
        except Exception as error:
            self.note("retrieve", begun, **details, error=str(error))
            raise
        details["found"] = [_found(passage) for passage in passages]
        self._seen |= {passage.chunk_id: passage for passage in passages}
        self.note("retrieve", begun, **details)
        return passages

    def search_outside(self, query: str, k: int) -> list[Passage] | None:
        """Ask the configured external search; None where none is configured or it fails, which the trace tells."""
        begun = time.perf_counter()
        if self._external is None:
            self.note("external", begun, query=query, skipped="No external search is configured.")
            return None
        try:
            found = self._external.search(query, k)
        except ExternalSearchFailed as error:
            self.note("external", begun, engine=self._external.name, query=query, k=k, error=error.message)
            return None
        self.note("external", begun, engine=self._external.name, query=query, k=k, found=[_found(passage) for passage in found])
        self._seen |= {passage.chunk_id: passage for passage in found}
        return found

    @property
    def chat_name(self) -> str:
        return self._chat.name

    def tables(self, documents: Sequence[int]) -> list[KnownTable]:
        """The tables of documents of the collection that is asked."""
        return self._tables.of(self._collection, documents) if self._tables else []

    def select(self, sql: str, tables: Sequence[KnownTable]) -> QueryResult:
        """Run one SELECT over tables. Raises RefusedSql, SqlFailed; the trace has the SQL and what became of it."""
        begun = time.perf_counter()
        try:
            result = self._tables.select(sql, tables)
        except InvalidInput as error:
            self.note("sql", begun, sql=sql, error=error.message)
            raise
        self.note("sql", begun, sql=result.sql, rows=len(result.rows), more=result.more, result=result.rows[:5])
        return result

    def image(self, passage: Passage) -> str:
        """The image that a passage speaks of, as a data URL. Raises NotFound."""
        begun = time.perf_counter()
        if self._image is None or passage.image_id is None:
            raise NotFound(f"Passage {passage.chunk_id} has no image.")
        url = self._image(self._collection, passage.image_id)
        self.note("image", begun, image=passage.image_id, document=passage.document, characters=len(url))
        return url

    def chat(
        self,
        messages: Sequence[Message],
        *,
        purpose: str = "answer",
        max_tokens: int | None = None,
        stream: bool = False,
    ) -> Completion:
        """Call the chat model; with `stream`, its text goes to the asker as it is made.

        Raises NothingIngested before a model is asked first in a collection where there is nothing to search."""
        begun = time.perf_counter()
        if not self.trace and self._ready:
            self._ready(self._collection)
        try:
            completion = self._chat.complete(messages, max_tokens=max_tokens, on_text=self.on_text if stream else None)
        except Exception as error:
            self.note(
                "chat", begun, purpose=purpose, model=self._chat.name, messages=_logged(messages, self._seen), error=str(error)
            )
            raise
        self.usage += completion.usage
        self.model = completion.model
        self.fallback = completion.fallback or self.fallback
        self.note(
            "chat",
            begun,
            purpose=purpose,
            model=completion.model,
            prompt_tokens=completion.usage.prompt_tokens,
            completion_tokens=completion.usage.completion_tokens,
            finish_reason=completion.finish_reason,
            messages=_logged(messages, self._seen),
            text=completion.text,
            **({"fallback": completion.fallback} if completion.fallback else {}),
        )
        return completion

    def note(self, step: str, begun: float, **details: Any) -> None:
        """Add a step: `at_ms` since the question reached the agent, `ms` that it took."""
        now = time.perf_counter()
        self.trace.append(
            {"step": step, "at_ms": round((begun - self._started) * 1000, 2), "ms": round((now - begun) * 1000, 2), **details}
        )

    def emit(self, text: str) -> None:
        """Hand over text that was held back until it was known to stand."""
        if self.on_text and text:
            self.on_text(text)


def _logged(messages: Sequence[Message], seen: Mapping[int, Passage]) -> list[dict[str, Any]]:
    """All that a model was told, with ⟨chunk N⟩ where a passage stood: the sources and the searches have it.

    A message longer than its share of LOGGED_CHARS is cut in its middle.
    """
    most = LOGGED_CHARS // max(1, len(messages))
    logged = []
    for message in messages:
        content = _without(message.content, seen)
        if len(content) > most:
            content = f"{content[: most // 2]} … {content[-most // 2 :]}"
        logged.append({"role": message.role, "content": content} | ({"images": len(message.images)} if message.images else {}))
    return logged


def _without(content: str, seen: Mapping[int, Passage]) -> str:
    """Whole passages first: the beginning that a cut one is known by may be another's too (rows under one header)."""
    passages = [passage for passage in seen.values() if len(passage.text) >= SHORTEST_REPLACED]
    for passage in passages:
        content = content.replace(passage.text, f"⟨chunk {passage.chunk_id}⟩")
    for passage in passages:
        if len(passage.text) > KNOWN_BY and (at := content.find(passage.text[:KNOWN_BY])) >= 0:
            same = zip(content[at:], passage.text, strict=False)
            end = at + next((place for place, (one, other) in enumerate(same) if one != other), len(content) - at)
            content = f"{content[:at]}⟨chunk {passage.chunk_id}⟩{content[end:]}"
    return content


def _found(passage: Passage) -> dict[str, Any]:
    """A passage as a step of the trace names it: the sources have its text."""
    found: dict[str, Any] = {
        "chunk": passage.chunk_id,
        "document": passage.document,
        "score": round(passage.score, 4),
        "scores": {name: round(value, 4) for name, value in passage.scores.items()},
    }
    if passage.matched:
        found["matched"] = [passage.text[start - passage.start : end - passage.start] for start, end in passage.matched]
    if passage.via:
        found["via"] = passage.via
    if passage.url:
        found["url"] = passage.url
    return found


def parameter(
    default: Any, help_text: str, *, low: float | None = None, high: float | None = None, choices: Sequence[Any] = ()
) -> Any:
    """A field of a strategy's Parameters, with the bounds that the admin and the API validate against."""
    return field(default=default, metadata={"help": help_text, "low": low, "high": high, "choices": tuple(choices)})


@dataclass(frozen=True, kw_only=True)
class CommonParameters:
    """Parameters that every strategy understands."""

    prompt_passages: int = parameter(3, "Passages that stand in the prompt, best first.", low=1, high=50)
    passage_chars: int = parameter(1200, "A passage longer than this is cut at a sentence in the prompt.", low=200, high=20000)
    max_tokens: int = parameter(64, "Longest answer, in tokens.", low=1, high=8192)
    history_turns: int = parameter(2, "Earlier turns of the conversation that stand in the prompt.", low=0, high=20)
    instructions: str = parameter("", "Replaces the built-in instructions to the chat model.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CommonParameters:
        """Raises InvalidInput naming the parameter, its value and what is allowed."""
        if not isinstance(values, dict):
            raise InvalidInput(f"Parameters must be a JSON object, not {type(values).__name__}.")
        fields = {item.name: item for item in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise InvalidInput(
                f"Unknown parameter {unknown[0]!r}; this strategy knows {', '.join(sorted(fields))}.", parameter=unknown[0]
            )
        return cls(**{name: _checked(fields[name], value) for name, value in values.items()})


def _checked(item: dataclasses.Field, value: Any) -> Any:
    wanted = type(item.default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted:
        raise InvalidInput(f"Parameter {item.name!r} must be {wanted.__name__}, not {value!r}.", parameter=item.name)
    low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        allowed = ", ".join(map(str, choices))
        raise InvalidInput(f"Parameter {item.name!r} must be one of {allowed}, not {value!r}.", parameter=item.name)
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise InvalidInput(f"Parameter {item.name!r} must lie between {low} and {high}, not {value!r}.", parameter=item.name)
    return value


class Strategy(ABC):
    """A way to answer. One module holds one strategy; `agents.strategies.STRATEGIES` registers it."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()  # kinds of agents.models.DerivedIndex that it searches
    Parameters: ClassVar[type[CommonParameters]] = CommonParameters

    def __init__(self, parameters: CommonParameters) -> None:
        self.parameters = parameters

    @abstractmethod
    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        """Answer the request. Raises NothingIngested, ChatModelUnavailable."""
