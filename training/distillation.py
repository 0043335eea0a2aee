"""Sequence-level distillation (Kim & Rush, 2016): a teacher answers logged questions over the same passages. Knows no ORM.

Answers are filtered: a refusal, an answer that the passages do not carry, and one that differs from gold or from the teacher's
own second answer teach nothing good.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field, replace

from adaptrag.common.errors import AdaptRAGError
from agents.llm.base import ChatModel, Message, Usage
from training.sft import Chat

PROMPT_REVISION = "1"
INSTRUCTIONS = (
    "Answer the question from the passages, in as few words as it takes: a name, a number, a phrase, or one sentence. "
    "Give the answer alone, without introduction or citation. If the passages do not hold it, say: I do not know."
)
GROUNDED = 0.6  # share of the answer's words that must stand in the passages
AGREES = 0.5  # token F1 with gold, or with a second sample
ROUNDS = 3  # an item whose call fails, retries included, comes again behind the others

_WORD = re.compile(r"[^\W_]+")
_REFUSAL = re.compile(
    r"\b(?:i (?:do not|don't|cannot|can't|am (?:not able|unable))|as an ai|i'm sorry|"
    r"(?:is|are) not (?:mentioned|stated|given))\b",
    re.IGNORECASE,
)
_VERDICTS = frozenset({"yes", "no"})
_FILLERS = frozenset(re.findall(r"\w+", "a an the of in on at to is are was were and or by for with it its as that from"))


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question for the teacher. prompt: its chat without an answer; gold: a correction, where there is one; said: samples
    that were paid for before, in an attempt that came to no end."""

    key: str
    prompt: Chat
    gold: str = ""
    said: tuple[str, ...] = ()
    model: str = ""  # that said them, as the server named it


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What came of an item. reason: why it is not accepted; failed: samples are missing, and can be asked for again.

    samples: all there are, the first being the answer. usage: of the calls of this attempt.
    """

    key: str
    reason: str = ""
    failed: bool = False
    model: str = ""
    samples: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)

    @property
    def text(self) -> str:
        return self.samples[0] if self.samples else ""

    @property
    def accepted(self) -> bool:
        return not self.reason


def teacher_chat(prompt: Chat) -> list[Message]:
    """The student's prompt with the teacher's instructions."""
    return [Message(role="system", content=INSTRUCTIONS), *(Message(**turn) for turn in prompt if turn["role"] != "system")]


def distil(
    items: Sequence[Item],
    teacher: ChatModel,
    *,
    samples: int = 1,
    concurrency: int = 4,
    max_tokens: int = 96,
    reserve: Callable[[Item], bool],
    keep: Callable[[Taught], None],
    tick: Callable[[], None],
) -> None:
    """Ask about every item, several at once.

    reserve is called, in order, before an item is asked: where it says no, that and all later items are left. keep takes what
    comes, as it comes. tick is called every second and may raise to end it: calls under way are paid for, so they are awaited
    and kept before that is raised again. All three are called in this thread.
    """
    waiting, again = list(items)[::-1], []
    attempts: Counter[str] = Counter()
    running: dict[Future[Taught], Item] = {}
    stopping = threading.Event()
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="teacher") as pool:
        try:
            while waiting or running or again:
                if not waiting and not running:
                    waiting, again = again[::-1], []
                while waiting and len(running) < concurrency:
                    if not reserve(waiting[-1]):
                        waiting, again = [], []
                        break
                    item = waiting.pop()
                    running[pool.submit(_asked, item, teacher, samples, max_tokens, stopping)] = item
                done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    taught = future.result()
                    keep(taught)
                    item = running.pop(future)
                    attempts[item.key] += 1
                    if taught.failed and attempts[item.key] < ROUNDS:
                        again.append(replace(item, said=taught.samples, model=taught.model))
                tick()
        except BaseException:
            stopping.set()
            for future in as_completed(running):
                if future.exception() is None:
                    keep(future.result())
            raise


def _asked(item: Item, teacher: ChatModel, samples: int, max_tokens: int, stopping: threading.Event) -> Taught:
    messages = teacher_chat(item.prompt)
    texts, model, usage, failure = item.said, item.model, Usage(), ""
    while len(texts) < samples and not failure:
        if stopping.is_set():
            failure = "It was stopped between two samples."
            break
        try:
            one = teacher.complete(messages, max_tokens=max_tokens, temperature=0.7 if texts else 0.0)
        except AdaptRAGError as error:
            failure = error.message
        else:
            texts, model, usage = (*texts, one.text.strip()), model or one.model, usage + one.usage
    return judged(item, texts, model=model, usage=usage, failure=failure)


def judged(item: Item, texts: tuple[str, ...], *, model: str, usage: Usage, failure: str = "") -> Taught:
    """What all samples of an item come to; failure: why some are missing."""
    reason = failure[:300] or refused(texts, item)
    return Taught(key=item.key, reason=reason, failed=bool(failure), model=model, samples=texts, usage=usage)


def refused(texts: Sequence[str], item: Item) -> str:
    """Why the first of a teacher's answers is not accepted; "" if it is."""
    text = texts[0]
    if _REFUSAL.search(text):
        return "refusal"
    if item.gold and agreement(text, item.gold) < AGREES:
        return "differs from the correction"
    if any(agreement(text, other) < AGREES for other in texts[1:]):
        return "differs from its own second answer"
    if not item.gold and not grounded(text, " ".join(turn["content"] for turn in item.prompt if turn["role"] == "user")):
        return "not in the passages"
    return ""


def grounded(text: str, passages: str) -> bool:
    """Whether most words of an answer, and all its numbers, stand in the passages. A bare yes or no is taken as it is."""
    there = set(_words(passages))
    words = [word for word in _words(text) if word not in _FILLERS]
    if not words or set(words) <= _VERDICTS:
        return bool(words)
    missing = [word for word in words if word not in there]
    return not any(word.isdigit() for word in missing) and len(missing) <= (1 - GROUNDED) * len(words)


def agreement(one: str, other: str) -> float:
    """Token F1 (Rajpurkar et al., 2016), over words without articles and the like."""
    first, second = ([word for word in _words(text) if word not in _FILLERS] for text in (one, other))
    common = sum((Counter(first) & Counter(second)).values())
    return 2 * common / (len(first) + len(second)) if common else float(first == second)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
