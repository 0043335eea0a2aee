"""Generation for many at once: one thread steps all sequences together, and a newcomer joins between two steps.

A prompt is read in chunks, one between two steps, so that those who are being answered never wait for a whole prompt. Chunks
lie at fixed places, also where the beginning of a prompt is taken over from an earlier one: an answer does not depend on what
else is being asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from agents.errors import ChatModelOverloaded, ChatModelTimeout, ChatModelUnavailable, PromptTooLong
from agents.llm.adapters import AdapterRows, read_adapter
from agents.llm.base import Message
from agents.llm.kv import Batch, KVCache
from agents.llm.prompts import ChatPrompts
from agents.llm.runner import Runner, load_runner
from agents.llm.sampling import Sampling, next_token
from agents.llm.text import TextStream
from agents.llm.threads import Threads

logger = logging.getLogger(__name__)

CHUNK = 128
MAX_ROWS = 8
MAX_WAITING = 64
CACHE_BYTES = 1 << 30
MAX_ADAPTERS = 16


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a generation ended. The tokens are counted, the one that ends an answer included."""

    reason: str  # stop or length
    prompt_tokens: int
    completion_tokens: int


Event = str | Finished | BaseException


@dataclass(eq=False, kw_only=True)
class Generation:
    """One request on its way. `tell` gets pieces of text, then one Finished or error; it is called on the engine's thread."""

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    tell: Callable[[Event], None]
    stream: TextStream
    deadline: float
    generator: torch.Generator | None
    adapter: str = ""
    read: int = 0  # tokens of the prompt whose keys and values are there
    reused: int = 0  # of them, those taken over from an earlier prompt
    answer: list[int] = field(default_factory=list)
    cancelled: bool = False

    def cancel(self) -> None:
        """Its asker is gone: nothing more is told, and its place is free before the next step."""
        self.cancelled = True

    @property
    def longest(self) -> int:
        return len(self.prompt) + self.max_tokens


class Engine:
    """A model and the thread that runs it. Rows 0 to n - 1 of the cache are being answered; the next one is being read."""

    def __init__(self, folder: Path, *, form: str = "auto", threads: int = 0) -> None:
        """Raises ChatModelUnavailable. `threads` 0: measured."""
        began = time.monotonic()
        self.folder = folder
        self.prompts = ChatPrompts(folder)
        self.runner: Runner = load_runner(folder, form, threads)
        self._ends = self.prompts.ends
        self._cache = KVCache()
        self._threads = Threads(self._probe, chunk=CHUNK, fixed=threads)
        # By row: the adapter and the prompt tokens, whole chunks, whose keys and values stand there.
        self._known: list[tuple[str, list[int]]] = []
        self._adapters: dict[str, object] = {}  # by name, the one asked longest ago first
        self._active: list[Generation] = []
        self._reading: Generation | None = None
        self._waiting: deque[Generation] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{folder.name}", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise ChatModelUnavailable(f"The model in {folder} does not run: {self._failure}") from self._failure
        self.window = min(self.runner.window, CACHE_BYTES // self._cache.bytes_per_token)
        self.load_seconds = time.monotonic() - began

    @property
    def busy(self) -> bool:
        with self._condition:
            return bool(self._active or self._reading or self._waiting)

    def describe(self) -> dict[str, Any]:
        with self._condition:
            return {
                "form": self.runner.form,
                "window": self.window,
                "adapters": list(self._adapters),
                "threads": {"prompt": self._threads.prompt, "answer": self._threads.answer},
                "load_seconds": round(self.load_seconds, 1),
                "answering": len(self._active) + (self._reading is not None),
                "waiting": len(self._waiting),
            }

    def has_adapter(self, name: str) -> bool:
        return name in self._adapters

    def load_adapter(self, name: str, folder: Path) -> None:
        """Keep an adapter beside the weights; the one asked longest ago makes room.

        Raises ChatModelUnavailable, ChatModelOverloaded."""
        ready = self.runner.adapted(read_adapter(name, folder))
        with self._condition:
            busy = {one.adapter for one in (*self._active, self._reading, *self._waiting) if one}
            idle = [known for known in self._adapters if known not in busy]
            if len(self._adapters) >= MAX_ADAPTERS:
                if not idle:
                    raise ChatModelOverloaded(f"All {MAX_ADAPTERS} loaded adapters are at work; try again in a while.")
                del self._adapters[idle[0]]
            self._adapters[name] = ready

    def submit(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        tell: Callable[[Event], None],
        *,
        timeout: float,
        adapter: str = "",
    ) -> Generation:
        """Start answering, with a loaded adapter if one is named.

        Raises PromptTooLong, ChatModelOverloaded, and ChatModelUnavailable for an engine that was closed."""
        prompt = self.prompts.encode(messages)
        if len(prompt) >= self.window:
            raise PromptTooLong(
                f"The prompt has {len(prompt)} tokens; the chat model reads at most {self.window - 1}. "
                "Lower the number or length of passages, or shorten the question.",
                tokens=len(prompt),
                window=self.window,
            )
        room = self.window - len(prompt)
        generation = Generation(
            prompt=prompt,
            sampling=sampling,
            max_tokens=room if sampling.max_tokens is None else min(sampling.max_tokens, room),
            tell=tell,
            stream=TextStream(self.prompts.decode, sampling.stop),
            deadline=time.monotonic() + timeout,
            generator=sampling.generator(),
            adapter=adapter,
        )
        with self._condition:
            if self._closed:
                raise ChatModelUnavailable("The chat model is being unloaded; ask again.")
            if adapter:
                if adapter not in self._adapters:
                    raise ChatModelUnavailable(f"The adapter {adapter} is not loaded.", model=adapter)
                self._adapters[adapter] = self._adapters.pop(adapter)
            if len(self._waiting) >= MAX_WAITING:
                raise ChatModelOverloaded(
                    f"{len(self._waiting)} requests wait for the chat model already; try again in a while."
                )
            self._waiting.append(generation)
            self._condition.notify()
        return generation

    def close(self) -> None:
        """End the thread; who is still waiting gets an error."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            try:
                self._threads.measure()
            except Exception as error:  # told to the one who loads
                self._failure = error
                return
            finally:
                self._started.set()
            while True:
                with self._condition:
                    idle = not (self._active or self._reading or self._waiting or self._closed)
                    woken = self._condition.wait(self._threads.until_next()) if idle else True
                    if self._closed:
                        break
                try:
                    if woken:
                        self._step()
                    else:
                        self._threads.measure()
                except Exception as error:
                    logger.exception("The chat model failed")
                    self._end_all(ChatModelUnavailable(f"The chat model failed: {error}"))
            self._end_all(ChatModelUnavailable("The chat model was unloaded."))

    def _step(self) -> None:
        self._drop_the_gone()
        if self._reading is None:
            self._admit()
        if self._reading is not None:
            self._read_chunk(self._reading)
        if self._active:
            self._answer_all()

    def _drop_the_gone(self) -> None:
        now = time.monotonic()
        with self._condition:
            gone = [
                one for one in (*self._waiting, *self._active, self._reading) if one and (one.cancelled or one.deadline < now)
            ]
            for one in gone:
                if one in self._waiting:
                    self._waiting.remove(one)
        for one in gone:
            if not one.cancelled:
                self._tell(one, ChatModelTimeout("The chat model did not finish in time; it is slow or much asked."))
            if one is self._reading:
                self._reading = None
            elif one in self._active:
                self._leave(one)

    def _admit(self) -> None:
        with self._condition:
            if not self._waiting or len(self._active) == MAX_ROWS:
                return
            newcomer = self._waiting[0]
            rows = len(self._active) + 1
            length = max(one.longest for one in (*self._active, newcomer))
            if self._active and self._cache.bytes_of(rows, length) > CACHE_BYTES:
                return
            self._waiting.popleft()
            self._reading = newcomer
        most = max(rows, self._cache.rows), max(length, self._cache.capacity)
        self._cache.resize(*(most if self._cache.bytes_of(*most) <= CACHE_BYTES else (rows, length)))
        self._known = [(adapter, known[: self._cache.capacity]) for adapter, known in self._known[: self._cache.rows]]
        self._known += [("", []) for _ in range(self._cache.rows - len(self._known))]
        row = rows - 1
        common = [
            _common(newcomer.prompt, known) // CHUNK * CHUNK if adapter == newcomer.adapter else 0
            for adapter, known in self._known
        ]
        best = max(range(len(common)), key=common.__getitem__)
        newcomer.read = min(common[best], (len(newcomer.prompt) - 1) // CHUNK * CHUNK)
        newcomer.reused = newcomer.read
        if best != row and newcomer.read:
            self._cache.copy(best, row, newcomer.read)
        self._known[row] = (newcomer.adapter, newcomer.prompt[: newcomer.read])

    def _read_chunk(self, one: Generation) -> None:
        """Read on; behind the last chunk stands the first token of the answer."""
        # Those that left while this one was being read left a hole before it.
        row = len(self._active)
        stop = min((one.read // CHUNK + 1) * CHUNK, len(one.prompt))
        device = self.runner.device
        ids = torch.tensor([one.prompt[one.read : stop]], device=device)
        batch = Batch.of(row, torch.arange(one.read, stop, device=device)[None], self.runner.dtype)
        self._threads.use(self._threads.prompt)
        logits = self.runner.forward(ids, self._cache, batch, self._adapters_of([one], stop - one.read))
        one.read = stop
        self._known[row] = (one.adapter, one.prompt[: stop // CHUNK * CHUNK])
        if stop == len(one.prompt):
            self._reading = None
            self._active.append(one)
            if not self._accept(one, logits[0]):
                self._leave(one)

    def _answer_all(self) -> None:
        """One token for each."""
        device = self.runner.device
        ids = torch.tensor([[one.answer[-1]] for one in self._active], device=device)
        places = torch.tensor([[len(one.prompt) + len(one.answer) - 1] for one in self._active], device=device)
        self._threads.use(self._threads.answer)
        adapters = self._adapters_of(self._active, 1)
        logits = self.runner.forward(ids, self._cache, Batch.of(0, places, self.runner.dtype), adapters)
        done = [one for one, row in zip(self._active, logits, strict=True) if not self._accept(one, row)]
        for one in done:
            self._leave(one)

    def _accept(self, one: Generation, logits: torch.Tensor) -> bool:
        """Add a token to an answer; False where it was the last."""
        if not bool(torch.isfinite(logits).all()):
            self._tell(one, ChatModelUnavailable("The chat model computes no numbers any more; its weights may be damaged."))
            return False
        token = next_token(logits, one.sampling, one.answer, one.generator)
        one.answer.append(token)
        ended = token in self._ends
        if not ended and (piece := one.stream.feed(token)):
            self._tell(one, piece)
        if not (ended or one.stream.stopped or len(one.answer) >= one.max_tokens):
            return True
        if rest := one.stream.finish():
            self._tell(one, rest)
        reason = "stop" if ended or one.stream.stopped else "length"
        self._tell(one, Finished(reason=reason, prompt_tokens=len(one.prompt), completion_tokens=len(one.answer)))
        return False

    def _adapters_of(self, rows: Sequence[Generation], tokens: int) -> AdapterRows | None:
        if not any(one.adapter for one in rows):
            return None
        return AdapterRows([self._adapters[one.adapter] if one.adapter else None for one in rows], tokens)

    def _leave(self, one: Generation) -> None:
        """Close the gap: the last row moves into it, and the one being read follows."""
        row, last = self._active.index(one), len(self._active) - 1
        filled = max(other.read + len(other.answer) for other in (*self._active, self._reading) if other)
        self._swap(row, last, filled)
        self._active[row] = self._active[last]
        self._active.pop()
        if self._reading is not None:
            self._swap(last, last + 1, filled)

    def _swap(self, row: int, other: int, length: int) -> None:
        if row != other:
            self._cache.swap(row, other, length)
            self._known[row], self._known[other] = self._known[other], self._known[row]

    def _end_all(self, error: ChatModelUnavailable) -> None:
        with self._condition:
            ended = [*self._active, *([self._reading] if self._reading else []), *self._waiting]
            self._active, self._reading = [], None
            self._waiting.clear()
        self._known = [("", []) for _ in self._known]
        for one in ended:
            self._tell(one, error)

    def _tell(self, one: Generation, event: Event) -> None:
        if one.cancelled:
            return
        try:
            one.tell(event)
        except Exception:
            logger.exception("Nobody takes an answer; it ends")
            one.cancel()

    def _probe(self, tokens: int) -> None:
        """One pass over `tokens` tokens, for measuring; only while nothing is answered."""
        device = self.runner.device
        places = torch.arange(tokens, device=device)[None] + (0 if tokens > 1 else CHUNK)
        self._known = [("", []), *self._known[1:]]  # the first row is written over
        self.runner.forward(torch.full_like(places, 5), self._cache, Batch.of(0, places, self.runner.dtype))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
