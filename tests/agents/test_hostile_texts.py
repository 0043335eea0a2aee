"""Texts made to keep a parser busy. Each took minutes to hours once; the bound is generous, the difference is not."""

from __future__ import annotations

import itertools
import time

import pytest

from agents.classifier import classify
from agents.ingestion import parse as parsing
from agents.ingestion.base import HTML, MARKDOWN, TEXT, Limits
from agents.ingestion.chunking import split, token_counter
from agents.ingestion.detect import detect
from agents.ingestion.parse import parse
from agents.ingestion.tables import sql_names
from agents.ingestion.text import markdown_document
from agents.retrieval.entities import named
from agents.strategies.table_rag import extracted

SIZE = 1_000_000
SECONDS = 10  # of this process
LIMITS = Limits(
    bytes=10_000_000, pages=50, expanded_bytes=20_000_000, characters=2_000_000, seconds=60, memory_bytes=1_000_000_000
)
TEXTS = {
    "comments": "<!---->" * (SIZE // 7) + "x",
    "declaration": "<?xml" + " " * SIZE,
    "closing": "# a" + " " * SIZE + "b",
    "brackets": "# " + "[" * SIZE,
    "links": "# " + "[](" * (SIZE // 3),
    "title": "---\ntitle: a" + " " * SIZE + "b\n---\nx",
    "underline": "a\n" + "=" * SIZE + " x",
    "quotes": ">" * SIZE + "a",
    "word": "a" * SIZE,
    "words": "a " * (SIZE // 2),
    "hashes": "# a\n" * (SIZE // 4),
    "items": "- a\n" * (SIZE // 4),
    "characters": "\N{CJK UNIFIED IDEOGRAPH-4E00}" * (SIZE // 3),
}


@pytest.fixture(autouse=True)
def soon():
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SECONDS


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_types_and_headings_are_told_in_time_with_the_length(text):
    assert detect("note.md", text.encode()) == MARKDOWN
    markdown_document(text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_cutting_takes_time_with_the_length(text):
    text = text[: SIZE // 4]
    chunks = split(markdown_document(text), 128, 64, token_counter(lambda word: 1 + len(word) // 8))
    assert chunks[0].start <= 3
    assert chunks[-1].end >= len(text.rstrip()) - 2
    assert not any(text[chunk.end : after.start].strip() for chunk, after in itertools.pairwise(chunks))


@pytest.mark.parametrize("kind", [TEXT, MARKDOWN])
def test_only_short_texts_are_read_in_the_process_that_serves(kind, monkeypatch):
    read = []
    real = parsing._in_child
    monkeypatch.setattr(parsing, "_in_child", lambda *given: read.append(given[2]) or real(*given))
    parse("note", b"# Title\n\nText.", kind, LIMITS)
    assert not read
    long = parse("note", b"# Title\n\n" + b"Text. " * 30_000, kind, LIMITS)
    assert read == [kind]
    assert (long.markdown, len(long.marks)) == ((True, 1) if kind == MARKDOWN else (False, 0))


def test_a_page_is_told_behind_comments_and_a_declaration():
    for start in (b"", b" \n", b"<?xml version='1.0'?>\n", b"<!-- a --> <!-- b\n-->\n", b"<?XML?><!---->"):
        assert detect("page", start + b"<!DOCTYPE html><p>x</p>") == HTML
    for other in (b"<!-- a -->text", b"<!-- never closed <html>", b"<?xml <html>", b"<header>x"):
        assert detect("page", other) == TEXT


def test_headings_lose_their_marks_and_nothing_else():
    text = "---\ntitle: 'A guide'\n---\n# Set *up* #\n\n## [Wiki](https://a.b/c_(d)) #1\n\n### C# ##\n\n## ##\n\n#\ttab [x]\n"
    document = markdown_document(text)
    assert document.title == "A guide"
    assert [mark.text for mark in document.marks] == ["Set up", "Wiki #1", "C#", "tab [x]"]


def test_equal_labels_become_numbered_names():
    assert sql_names(["a", "A", "a_2", "a", "b"]) == ["a", "a_2", "a_2_2", "a_3", "b"]
    assert len(set(sql_names(["x"] * 20_000))) == 20_000


def test_questions_and_replies_are_read_in_time_with_their_length():
    for question in ("a" * 8000, "." * 8000, "'" * 8000, "the " * 2000, "A." * 4000, "both " * 1600, "[" * 8000):
        classify(question)
        assert named(question, {}) == []
    assert named("Who works at St. Mary's and AT&T?", {"at&t": 0}) == ["at&t"]
    assert extracted("```" + "\n" * 8000 + "SELECT 1") == "SELECT 1"
    assert extracted("```SELECT 3```") == "SELECT 3"
    assert extracted("Here:\n```sql\nSELECT 2;\n```\nDone.") == "SELECT 2"
