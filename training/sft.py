"""From rated interactions to examples: who goes in, with which target, and why the others do not. Knows no ORM.

Questions that are the same or nearly so form a group. A group gives one example and stands on one side of the split, and a
group in which an eval question stands gives none.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Chat = list[dict[str, str]]

SAME = 0.85  # share of common words (Jaccard) from which two questions count as one
VALIDATION = 0.1  # share of the groups
ORIGINS = ("correction", "best", "teacher")
SOURCES: dict[str, tuple[str, ...]] = {
    "all": ORIGINS,
    "corrections": ("correction",),
    "best": ("best",),
    "teacher": ("teacher",),
}

_WORD = re.compile(r"[^\W_]+")
_FILLERS = frozenset(
    re.findall(
        r"\w+", "what which s a an the of in on at to is are was were be do does did by for with and or it its that this"
    )
)
_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("[key]", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)),
    ("[key]", re.compile(r"\b(?:sk|pk|rk|ghp|gho|ghs|glpat|xox[abps]|hf|ar)[-_][A-Za-z0-9_-]{16,}\b|\bAKIA[0-9A-Z]{16}\b")),
    ("[key]", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")),
    ("[password]", re.compile(r"(?i)(?<=password[:=])\s*\S+|(?<=passwd[:=])\s*\S+|(?<=\bsecret[:=])\s*\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")),
    ("[email]", re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b")),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A logged question. `prompt(n)` is its chat with the first n of `passages`, without an answer.

    `reward` is the mean rating of `answer` by `ratings` raters (None: none). `corrections` and `teacher` are other targets;
    `failed` tells why there is no usable answer.
    """

    key: str
    question: str
    passages: int
    prompt: Callable[[int], Chat]
    answer: str = ""
    reward: float | None = None
    ratings: int = 0
    corrections: tuple[str, ...] = ()
    teacher: str = ""
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class Filters:
    min_reward: float = 0.8
    source: str = "all"
    scrub: bool = True
    window: int = 2048
    validation: float = VALIDATION

    @property
    def origins(self) -> tuple[str, ...]:
        return SOURCES[self.source]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question that was looked at. split: train, validation or left_out, then `reason` says why."""

    key: str
    question: str
    split: str
    origin: str = ""
    reason: str = ""
    note: str = ""
    reward: float | None = None
    tokens: int = 0
    target: str = ""
    messages: tuple[dict[str, str], ...] = ()


def select(
    candidates: Sequence[Candidate], filters: Filters, count: Callable[[Sequence[dict[str, str]]], int], reserved: Iterable[str]
) -> list[Example]:
    """Every candidate as an example, in their order. count: tokens of a chat with its answer; reserved: of eval sets."""
    reserved = list(reserved)
    groups = grouped([one.question for one in candidates] + reserved)
    taboo = set(groups[len(candidates) :])
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(candidates)):
        members[groups[index]].append(index)
    found: dict[int, Example] = {}
    held_out = _held_out(members, candidates, taboo, filters.validation)
    for group, indices in members.items():
        if group in taboo:
            for index in indices:
                found[index] = _left(candidates[index], "It is, or nearly is, a question of an eval set.")
            continue
        offers = [(index, *offer) for index in indices for offer in _offers(candidates[index], filters)]
        if not offers:
            for index in indices:
                found[index] = _left(candidates[index], _why(candidates[index], filters))
            continue
        split = "validation" if group in held_out else "train"
        best = max(offers, key=lambda offer: _rank(offer, offers, candidates[offer[0]]))
        for index in indices:
            if index != best[0]:
                found[index] = _left(candidates[index], f"The same question has a better target: {candidates[best[0]].key}.")
        found[best[0]] = _example(candidates[best[0]], best[1], best[2], split, filters, count)
    return [found[index] for index in range(len(candidates))]


def _offers(one: Candidate, filters: Filters) -> list[tuple[str, str]]:
    """(origin, target) that a candidate has to offer under the filters."""
    offers = [("correction", text.strip()) for text in one.corrections if text.strip()]
    if not one.failed and one.reward is not None and one.reward >= filters.min_reward and one.answer.strip():
        offers.append(("best", one.answer.strip()))
    if one.teacher.strip():
        offers.append(("teacher", one.teacher.strip()))
    return [offer for offer in offers if offer[0] in filters.origins] if one.passages else []

    # A question without passages would teach to answer from memory.


def _rank(offer: tuple[int, str, str], offers: Sequence[tuple[int, str, str]], of: Candidate) -> tuple[float, ...]:
    """Corrections before answers before a teacher's; among answers the best-rated; then how many say the same; then the newest.

    A rating is of the answer: corrections and teachers' answers have none.
    """
    index, origin, text = offer
    same = sum(normalised(other[2]) == normalised(text) for other in offers)
    return (-ORIGINS.index(origin), of.reward or 0.0 if origin == "best" else 0.0, same, index)


def _example(
    one: Candidate, origin: str, target: str, split: str, filters: Filters, count: Callable[[Sequence[dict[str, str]]], int]
) -> Example:
    notes: list[str] = []
    if filters.scrub:
        target, hidden = scrubbed(target)
        if hidden:
            return _left(one, f"Its answer holds what is scrubbed: {', '.join(sorted(hidden))}.")
    for passages in range(one.passages, 0, -1):
        chat = one.prompt(passages)
        if filters.scrub:
            replaced: Counter[str] = Counter()
            for message in chat:
                message["content"], hidden = scrubbed(message["content"])
                replaced += hidden
            notes = [f"scrubbed {number} {what}" for what, number in sorted(replaced.items())]
        chat = [*chat, {"role": "assistant", "content": target}]
        tokens = count(chat)
        if tokens <= filters.window:
            if passages < one.passages:
                notes.append(f"cut to {passages} of {one.passages} passages")
            return Example(
                key=one.key,
                question=one.question,
                split=split,
                origin=origin,
                note="; ".join(notes),
                reward=one.reward,
                tokens=tokens,
                target=target,
                messages=tuple(chat),
            )
    return _left(one, f"Even with one passage it has {tokens} tokens, over the student's window of {filters.window}.")


def _left(one: Candidate, reason: str) -> Example:
    return Example(key=one.key, question=one.question, split="left_out", reason=reason, reward=one.reward, target=one.answer)


def _why(one: Candidate, filters: Filters) -> str:
    if not one.passages:
        return "No passage stood in its prompt."
    if one.failed:
        return one.failed
    if filters.source in ("corrections", "teacher"):
        return f"It has no {'correction' if filters.source == 'corrections' else 'accepted answer of a teacher'}."
    if one.reward is None:
        return "Nobody rated it, and it has no other target."
    return f"Its rating {one.reward:.2f} is under {filters.min_reward:g}, and it has no other target."


def _held_out(members: dict[int, list[int]], candidates: Sequence[Candidate], taboo: set[int], share: float) -> set[int]:
    """Groups of the validation split, by a hash of a group's first question: a group stays on its side as the log grows."""
    ordered = sorted(
        (group for group in members if group not in taboo),
        key=lambda group: hashlib.sha256(min(normalised(candidates[i].question) for i in members[group]).encode()).digest(),
    )
    bound = share * 256
    return {
        group
        for group in ordered
        if hashlib.sha256(min(normalised(candidates[i].question) for i in members[group]).encode()).digest()[0] < bound
    }


# Questions --------------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def grouped(questions: Sequence[str]) -> list[int]:
    """For each question the number of its group. Two are in one if they share 85 % of their words and all numbers.

    Pairs are found over their rarest words (prefix filtering; Chaudhuri et al., 2006), not by comparing all with all.
    """
    words = [_words(question) for question in questions]
    frequency = Counter(word for one in words for word in one)
    parent = list(range(len(questions)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    index: dict[str, list[int]] = defaultdict(list)
    for number, own in enumerate(words):
        ordered = sorted(own, key=lambda word: (frequency[word], word))
        prefix = ordered[: len(ordered) - math.ceil(SAME * len(ordered)) + 1]
        for other in {other for word in prefix for other in index[word]}:
            if root(other) != root(number) and _alike(own, words[other]):
                parent[root(number)] = root(other)
        for word in prefix:
            index[word].append(number)
    return [root(number) for number in range(len(questions))]


def _words(question: str) -> frozenset[str]:
    words = _WORD.findall(question.lower())
    return frozenset(word for word in words if word not in _FILLERS) or frozenset(words)


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= SAME * len(one | other) and not any(word.isdigit() for word in one ^ other)


def scrubbed(text: str) -> tuple[str, Counter[str]]:
    """Text with secrets and e-mail addresses replaced, and how many of each were."""
    replaced: Counter[str] = Counter()
    for what, pattern in _SECRETS:
        text, number = pattern.subn(what, text)
        if number:
            replaced[what] += number
    return text, replaced


def counts(examples: Sequence[Any]) -> dict[str, Any]:
    """What a dataset's row says of its examples, or of their rows."""
    kept = [one for one in examples if one.split != "left_out"]
    return {
        "train": sum(one.split == "train" for one in kept),
        "validation": sum(one.split == "validation" for one in kept),
        "origins": dict(Counter(one.origin for one in kept)),
        "left_out": dict(Counter(re.sub(r"[0-9a-f-]{36}|\d[\d.]*", "…", one.reason) for one in examples if one.reason)),
        "cut": sum("cut to" in one.note for one in kept),
        "scrubbed": sum("scrubbed" in one.note for one in kept),
        "tokens": sum(one.tokens for one in kept),
    }
