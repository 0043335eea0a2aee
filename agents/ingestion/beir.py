"""BEIR folders: corpus.jsonl(.gz) with _id, title, text (Thakur et al., 2021)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.errors import DocumentRejected
from agents.ingestion.text import clean


@dataclass(frozen=True, kw_only=True)
class BeirPassage:
    id: str
    title: str
    text: str


def corpus_file(folder: Path) -> Path | None:
    """The corpus of a BEIR folder, or None if it isn't one."""
    return next((path for name in ("corpus.jsonl", "corpus.jsonl.gz") if (path := folder / name).is_file()), None)


def read_corpus(path: Path) -> Iterator[BeirPassage]:
    """Every passage with a text or a title. Raises DocumentRejected with the number of a line that can't be read."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as handle:
        try:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    passage = _passage(path, number, line)
                    if passage.text:
                        yield passage
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise DocumentRejected(f"{path} is damaged or not UTF-8: {error}.", name=str(path)) from error


def _passage(path: Path, number: int, line: str) -> BeirPassage:
    try:
        row = json.loads(line)
        identifier, title, text = str(row["_id"]), row.get("title") or "", row["text"] or ""
        if not (identifier and isinstance(title, str) and isinstance(text, str)):
            raise ValueError("_id, title and text must be texts")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DocumentRejected(f"{path}, line {number}: not a BEIR passage ({error}).", name=str(path), line=number) from error
    title = " ".join(clean(title).split())[:500]
    return BeirPassage(id=identifier, title=title, text=clean(text) if text.strip() else title)
