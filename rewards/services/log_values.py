"""What an imported line may hold inside its lists and objects: what the pages, jobs and estimates that read them rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

Test = Callable[[Any], bool]
Rule = tuple[str, Test]  # what the value must be, in words, and whether it is

_LARGEST = 2**63  # of the databases' integers


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_address(value: Any) -> bool:
    try:
        return isinstance(value, str) and (not value or urlsplit(value).scheme in ("http", "https"))
    except ValueError:
        return False


TEXT: Rule = ("a text", lambda value: isinstance(value, str))
NUMBER: Rule = ("a number", _is_number)
WHOLE: Rule = ("a whole number", _is_whole)
FROM_0: Rule = ("a whole number from 0", lambda value: _is_whole(value) and value >= 0)
FLAG: Rule = ("true or false", lambda value: isinstance(value, bool))
UNIT: Rule = ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
NOT_BELOW_0: Rule = ("a number from 0", lambda value: _is_number(value) and value >= 0)
ROLE: Rule = ("user or assistant", lambda value: value in ("user", "assistant"))
# A page links to it: nothing but an address may stand there.
ADDRESS: Rule = ("an http or https address", _is_address)
NUMBERS: Rule = (
    "an object of numbers",
    lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
)
PLACE: Rule = (
    "an object whose rows and lines are [first, last]",
    lambda value: isinstance(value, dict) and all(not value.get(kind) or _is_span(value[kind]) for kind in ("rows", "lines")),
)
SPANS: Rule = (
    "a list of [start, end]",
    lambda value: isinstance(value, list) and all(map(_is_span, value)),
)
OBJECTS: Rule = (
    "a list of objects",
    lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
)

GRADES: Rule = (
    "a list of objects, each grade of them a text",
    lambda value: OBJECTS[1](value) and all(isinstance(one.get("grade", ""), str) for one in value),
)

# The keys that must be there, and those that may (or, but for a step's, may be null). Further ones are kept as they are.
_SHAPES: dict[str, tuple[Mapping[str, Rule], Mapping[str, Rule]]] = {
    "candidates": (
        {"agent": TEXT, "probability": UNIT},
        {"revision": WHOLE, "variant_id": WHOLE, "pulls": NOT_BELOW_0, "mean": NUMBER},
    ),
    "messages": ({"role": ROLE, "content": TEXT}, {}),
    "sources": (
        {"chunk_id": WHOLE, "document": TEXT, "text": TEXT},
        {
            **dict.fromkeys(("heading", "retriever", "kind", "via"), TEXT),
            **dict.fromkeys(("document_id", "page", "start", "end", "rank"), WHOLE),
            **{"image_id": FROM_0, "score": NUMBER, "scores": NUMBERS, "place": PLACE, "matched": SPANS},
            **{"url": ADDRESS, "used": FLAG},
        },
    ),
    "trace": (
        {"step": TEXT},
        {
            **dict.fromkeys(("purpose", "error"), TEXT),
            **dict.fromkeys(("at_ms", "ms", "prompt_tokens", "completion_tokens"), NOT_BELOW_0),
            **{"found": OBJECTS, "grades": GRADES},
        },
    ),
    "fallback": ({"from": TEXT, "to": TEXT, "reason": TEXT}, {}),
    "error": ({"message": TEXT}, {"code": TEXT}),
}
LISTS = ("messages", "sources", "trace", "candidates")
OBJECTS_OF_A_LINE = ("fallback", "error")


def problem_of(values: Mapping[str, Any]) -> str:
    """What is wrong with the lists and objects of a line, as a sentence that names the place; empty where nothing is.

    >>> problem_of({"candidates": [{"agent": "naive_rag", "probability": 2}]})
    'candidates[0].probability must be a number from 0 to 1, not 2.'
    """
    for name in LISTS:
        rows = values.get(name, [])
        if not isinstance(rows, list):
            return f"{name} must be a list, not {rows!r:.50}."
        for index, row in enumerate(rows):
            if problem := _problem(f"{name}[{index}]", name, row):
                return problem
    return next((found for name in OBJECTS_OF_A_LINE if name in values and (found := _problem(name, name, values[name]))), "")


def _problem(where: str, name: str, row: Any) -> str:
    if not isinstance(row, dict):
        return f"{where} must be an object, not {row!r:.50}."
    needed, known = _SHAPES[name]
    for key, (what, test) in needed.items():
        if key not in row:
            return f"{where} lacks {key!r}, {what}."
        if not test(row[key]):
            return f"{where}.{key} must be {what}, not {row[key]!r:.50}."
    for key, (what, test) in known.items():
        # Steps are added up as they stand.
        if ((name == "trace" and key in row) or row.get(key) is not None) and not test(row[key]):
            return f"{where}.{key} must be {what}, not {row[key]!r:.50}."
    if name == "sources" and row["chunk_id"] < 0 and not row.get("url"):
        return f"{where}.chunk_id is {row['chunk_id']}, which only a source with a url may have."
    if name == "candidates" and row.get("pulls") and row.get("mean") is None:
        return f"{where} has {row['pulls']:g} pulls and no mean."
    return ""
