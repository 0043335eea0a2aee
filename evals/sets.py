"""Eval sets as files: BEIR folders and JSON lines, read with line numbers in every complaint, written without loss."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.errors import BadEvalSet

MAX_BYTES = 64_000_000  # of expanded text; a set that people read and judge is far below
MAX_QUESTION_CHARS = 8_000
MAX_CATEGORY_CHARS = 32
MAX_GAIN = 1e9
MAX_COMPLAINTS = 20
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000|\x00")
# The predecessor's and other tools' words for the same fields.
_QUESTION, _ANSWERS, _KEY = (
    ("question", "text", "query"),
    ("answers", "answer", "gold_answer", "expected"),
    ("id", "_id", "key"),
)
_READ = {*_QUESTION, *_ANSWERS, *_KEY, "gold", "category", "unanswerable", "metadata"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """`gold` maps a document's source to its gain; to an `unanswerable` question the documents hold no answer."""

    key: str
    question: str
    answers: tuple[str, ...] = ()
    gold: dict[str, float] = field(default_factory=dict)
    category: str = ""
    unanswerable: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def as_line(self) -> str:
        values = asdict(self)
        if not self.unanswerable:
            values.pop("unanswerable")
        return json.dumps({"id": values.pop("key"), **values}, ensure_ascii=False, sort_keys=True)


def digest(items: Iterable[Item]) -> str:
    """SHA-256 of the canonical export: equal sets have equal digests."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(item.as_line().encode() + b"\n")
    return sha.hexdigest()


def read_jsonl(path: Path) -> list[Item]:
    """Items of a JSON-lines file (or .gz). Raises BadEvalSet with the line numbers of what is wrong."""
    return _items(path.name, ((number, _parsed(number, line)) for number, line in _lines(path)))


def read_beir(folder: Path) -> list[Item]:
    """Items of a BEIR folder: queries.jsonl with `metadata.answers`, qrels/test.tsv for the gold passages.

    Gold passages are named as corpus_add names their documents: "<folder's name>/<corpus-id>". Queries without a judged
    passage and without answers are left out, as BEIR does. Raises BadEvalSet.
    """
    queries = _existing(folder, "queries.jsonl")
    gold, dataset = _qrels(folder), folder.resolve().name
    items = []
    for item in _items(queries.name, ((number, _beir_row(number, _parsed(number, line))) for number, line in _lines(queries))):
        passages = {f"{dataset}/{passage}": gain for passage, gain in gold.get(item.key, {}).items()}
        if item.answers or passages or item.unanswerable:
            items.append(replace(item, gold=passages))
    if not items:
        raise BadEvalSet(f"{folder} has no query with answers or judged passages. Add metadata.answers or qrels/test.tsv.")
    return items


def _beir_row(number: int, row: dict[str, Any] | str) -> dict[str, Any] | str:
    """The row with its metadata's answers as its own, which is where BEIR sets keep them."""
    metadata = {} if isinstance(row, str) else row.get("metadata")
    if not isinstance(metadata, dict) or "answers" not in metadata:
        return row
    answers = [] if metadata["answers"] is None else metadata["answers"]
    answers = [str(one) if isinstance(one, int | float) else one for one in answers] if isinstance(answers, list) else answers
    rest = {name: value for name, value in metadata.items() if name != "answers"}
    return {**{name: value for name, value in row.items() if name not in _ANSWERS}, "answers": answers, "metadata": rest}


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise BadEvalSet(f"{folder} has no {name} (nor {name}.gz); a BEIR folder needs it.")


def _qrels(folder: Path) -> dict[str, dict[str, float]]:
    gold: dict[str, dict[str, float]] = {}
    for path in (folder / "qrels" / "test.tsv", folder / "qrels" / "test.tsv.gz"):
        if not path.is_file():
            continue
        for number, line in _lines(path):
            parts = line.split("\t")
            if number == 1 and parts[-1].strip() == "score":
                continue
            try:
                query, passage, gain = parts
                gold.setdefault(query, {})[passage] = _gain(float(gain))
            except ValueError:
                raise BadEvalSet(
                    f"{path.name}, line {number}: expected query-id, corpus-id and score between tabs, not {line[:80]!r}.",
                    lines=[number],
                ) from None
    return gold


def _gain(value: Any) -> float:
    """Raises ValueError for what is no gain: a number from 0 to MAX_GAIN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_GAIN:
        raise ValueError(value)
    return float(value)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    total = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            for number, raw in enumerate(handle, start=1):
                total += len(raw)
                if total > MAX_BYTES:
                    raise BadEvalSet(f"{path.name} holds more than {MAX_BYTES:,} bytes. Split it, or take a sample of it.")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise BadEvalSet(
                        f"{path.name}, line {number} is not UTF-8 (byte {error.start}). Save the file as UTF-8.", lines=[number]
                    ) from None
                if line:
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise BadEvalSet(f"{path} can't be read: {error}") from None


def _parsed(number: int, line: str) -> dict[str, Any] | str:
    """The line's object, or the complaint about it: also what Python reads and no database keeps."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"line {number} is not JSON ({str(error)[:80]})"
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        return f"line {number} holds half a character ({error.object[error.start : error.end]!r})"
    except ValueError:
        return f"line {number} holds NaN, Infinity or a number too large for JSON"
    if _NUL.search(line):
        return f"line {number} holds a NUL (\\u0000)"
    return value if isinstance(value, dict) else f"line {number} holds {type(value).__name__}, not an object"


def _items(name: str, rows: Iterable[tuple[int, dict[str, Any] | str]]) -> list[Item]:
    items: list[Item] = []
    complaints: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for number, row in rows:
        item = row if isinstance(row, str) else _item(number, row)
        if isinstance(item, Item):
            if item.key in first:
                item = f"line {number} repeats the id {item.key!r} of line {first[item.key]}"
            else:
                first[item.key] = number
                items.append(item)
        if isinstance(item, str):
            complaints.append((number, item))
    if complaints:
        more = f"; and {len(complaints) - MAX_COMPLAINTS} more" if len(complaints) > MAX_COMPLAINTS else ""
        words = "; ".join(words for _, words in complaints[:MAX_COMPLAINTS])
        raise BadEvalSet(f"{name}: {words}{more}.", lines=[number for number, _ in complaints[:1000]])
    if not items:
        raise BadEvalSet(f"{name} holds no question.")
    return items


def _item(number: int, row: dict[str, Any]) -> Item | str:
    question = next((row[name] for name in _QUESTION if name in row), None)
    if not isinstance(question, str) or not question.strip():
        return f"line {number} has no question (a text under {', '.join(_QUESTION)})"
    if len(question) > MAX_QUESTION_CHARS:
        return f"line {number}: the question has over {MAX_QUESTION_CHARS:,} characters"
    answers = next((row[name] for name in _ANSWERS if row.get(name) is not None), [])
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        return f"line {number}: answers must be texts, not {json.dumps(answers)[:80]}"
    gold = row.get("gold") or {}
    if isinstance(gold, list) and all(isinstance(source, str) for source in gold):
        gold = dict.fromkeys(gold, 1.0)
    try:
        gold = {str(source): _gain(gain) for source, gain in gold.items()}
    except (AttributeError, ValueError):
        return f"line {number}: gold must map document sources to gains from 0 to {MAX_GAIN:g}"
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        return f"line {number}: metadata must be an object"
    other = {name: value for name, value in row.items() if name not in _READ}
    if twice := sorted(other.keys() & metadata.keys()):
        return f"line {number}: {twice[0]!r} stands beside the metadata and in it"
    category = row.get("category") or ""
    if not isinstance(category, str) or len(category) > MAX_CATEGORY_CHARS:
        return f"line {number}: the category must be a text of at most {MAX_CATEGORY_CHARS} characters"
    unanswerable = row.get("unanswerable", False)
    if not isinstance(unanswerable, bool) or (unanswerable and answers):
        return f"line {number}: unanswerable must be true or false, and true only without answers"
    key = next((row[name] for name in _KEY if row.get(name) not in (None, "")), f"line-{number}")
    if len(str(key)) > 200:
        return f"line {number}: the id has over 200 characters"
    return Item(
        key=str(key),
        question=question.strip(),
        answers=tuple(answers),
        gold=gold,
        category=category,
        unanswerable=unanswerable,
        metadata=metadata | other,
    )
