"""Entities and relations of a passage by rules: names, codes and titles, and the words that stand between two of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.classifier import content_words
from agents.retrieval.units import sentences

# A run of capitalised words, with small words inside ("University of Oslo"); codes and identifiers ("SARS-CoV-2", "top_k").
_WORD = r"[A-ZÀ-ÖØ-ÞА-Я][\w'’&.-]*\w|[A-ZÀ-ÖØ-ÞА-Я]"
_INSIDE = r"(?:of|the|de|del|della|der|den|von|van|for|la|le|du|da|di|y|&)"
_NAME = re.compile(rf"(?:{_WORD})(?:[ \t]+(?:{_INSIDE}[ \t]+){{0,2}}(?:{_WORD}|\d+\b))*")
_CODE = re.compile(r"`([^`\n]{2,60})`|\b(\w+_\w+)\b|\b([A-Za-z]+-?\d[\w-]*)\b")
_PRONOUNS = frozenset(["its", "his", "her", "their", "our", "my", "your", "he", "she", "they", "we", "it"])
_YEAR = re.compile(r"^\d{4}$")
_PARENTHESES = re.compile(r"\s*[(\[].*?[)\]]")
_LEADING = re.compile(
    r"^(?:the|a|an|this|that|these|in|on|at|of|for|and|but|it|its|he|she|his|her|they|their|we|our|by|from|to|as|with)\s+"
)
_SPACES = re.compile(r"\s+")
LONGEST_NAME = 80
LONGEST_LABEL = 8  # words between two entities that can still be said to relate them
MOST_ENTITIES = 40  # of a passage


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """title: keys of what the document is about; names: spellings by key; relations: (subject, words between, object)."""

    title: tuple[str, ...]
    names: dict[str, str]
    relations: tuple[tuple[str, str, str], ...]


def key(name: str) -> str:
    """What two spellings of one entity share: lower case, no article, no possessive."""
    name = _SPACES.sub(" ", name.replace("’", "'")).strip(" .,;:'\"-").casefold()
    name = name[:-2] if name.endswith("'s") else name
    while (shorter := _LEADING.sub("", name)) != name:
        name = shorter
    return name[:LONGEST_NAME]


def title_keys(title: str) -> tuple[str, ...]:
    """The keys of a document's title: whole, without parentheses, and what stands before a comma."""
    plain = _PARENTHESES.sub("", title)
    found = dict.fromkeys(key(form) for form in (title, plain, plain.split(",")[0]))
    return tuple(form for form in found if _tells(form))


def entities(text: str) -> list[tuple[int, int, str]]:
    """(start, end, name) of each mention, in order, none overlapping."""
    found: list[tuple[int, int, str]] = []
    for pattern in (_NAME, _CODE):
        for match in pattern.finditer(text):
            name = next((group for group in match.groups() if group), match.group()) if match.groups() else match.group()
            if _tells(key(name)) and not any(start < match.end() and match.start() < end for start, end, _ in found):
                found.append((match.start(), match.end(), name))
    return sorted(found)


def _tells(form: str) -> bool:
    """A name that is nothing but stop words, a single letter or a year names no thing."""
    return len(form) > 1 and not _YEAR.match(form) and form not in _PRONOUNS and bool(content_words(form))


def extract(title: str, text: str) -> Extraction:
    """The rules' reading of one passage of a document with this title."""
    about = title_keys(title)
    names: dict[str, str] = {about[0]: title} if about else {}
    relations: dict[tuple[str, str, str], None] = {}
    for start, end in sentences(text):
        sentence = text[start:end]
        mentions = entities(sentence)
        for position, (begin, _, name) in enumerate(mentions):
            this = key(name)
            if this not in names and len(names) >= MOST_ENTITIES:
                continue
            names.setdefault(this, _SPACES.sub(" ", name))
            # The sentence's subject is the name before, or what the document is about.
            subject = key(mentions[position - 1][2]) if position else (about[0] if about else "")
            label = _label(sentence[mentions[position - 1][1] if position else 0 : begin])
            if subject in names and subject != this:
                relations[subject, label, this] = None
    return Extraction(title=about, names=names, relations=tuple(relations))


def _label(between: str) -> str:
    words = re.findall(r"[\w'-]+", between)
    return " ".join(words[-LONGEST_LABEL:]).lower() or "with"


def named(question: str, known: Sequence[str] | dict[str, int]) -> list[str]:
    """Keys of `known` that the question's words spell out, the longest first where they overlap; in order of appearance."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\w+(?:['&.-]+\w+)*", question)]
    found: list[str] = []
    position = 0
    while position < len(words):
        for last in range(min(len(words), position + 8), position, -1):
            form = key(question[words[position][0] : words[last - 1][1]])
            # One common word is an entity only where the question writes it as a name.
            alone = " " not in form and "_" not in form and question[words[last - 1][0] : words[last - 1][1]].islower()
            if form in known and _tells(form) and not alone:
                found.append(form)
                position = last - 1
                break
        position += 1
    return list(dict.fromkeys(found))
