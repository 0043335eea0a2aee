"""Passages: size, place in the text, the headings and the page that they stand under."""

from __future__ import annotations

import json

import pytest

from agents.errors import DocumentRejected
from agents.ingestion.base import Mark, ParsedDocument
from agents.ingestion.beir import read_corpus
from agents.ingestion.chunking import search_prefix, split, token_counter
from agents.ingestion.text import markdown_document
from agents.retrieval.embedding import token_count

SENTENCES = [f"Sentence number {number} speaks about topic {number % 7} at some length." for number in range(60)]


@pytest.fixture(scope="module")
def count():
    return token_counter(token_count())


def test_tokens_are_counted_word_by_word_as_on_the_whole(count):
    text = "Naïve tokenization of unbelievably long words, 北京 and COVID-19 (e.g. doi:10.1371/journal.pone.0007211)."
    assert count(text) == token_count()(text)


def test_passages_fit_the_capacity_and_lie_where_they_say(count):
    text = " ".join(SENTENCES) + "\n\n" + " ".join(SENTENCES)
    chunks = split(ParsedDocument(text=text, markdown=False), 100, 50, count)
    assert len(chunks) > 10
    assert all(count(chunk.text) <= 100 for chunk in chunks)
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.text.endswith(".") for chunk in chunks)
    covered = "".join(chunk.text for chunk in chunks)
    assert covered.replace(" ", "") == text.replace(" ", "").replace("\n", "")


def test_a_word_that_never_ends_is_cut(count):
    chunks = split(ParsedDocument(text="x" * 20_000, markdown=False), 100, 50, count)
    assert max(len(chunk.text) for chunk in chunks) <= 500


def test_markdown_passages_know_their_headings(count):
    sections = "\n\n".join(f"## Section {name}\n\n{' '.join(SENTENCES[:8])}" for name in "ABC")
    text = f"# Guide\n\n{sections}\n\n# Appendix\n\n{' '.join(SENTENCES[:3])}\n"
    chunks = split(markdown_document(text), 120, 60, count)
    assert {chunk.heading for chunk in chunks} == {*(f"Guide > Section {name}" for name in "ABC"), "Appendix"}
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert not [chunk.text for chunk in chunks if all(line.startswith("#") for line in chunk.text.split("\n") if line)]


def test_passages_of_a_pdf_know_their_page(count):
    text = " ".join(SENTENCES[:20]) + "\n\n" + " ".join(SENTENCES[20:40])
    second = text.index("\n\n") + 2
    marks = (Mark(start=0, kind="page", level=1), Mark(start=second, kind="page", level=2))
    chunks = split(ParsedDocument(text=text, markdown=False, marks=marks), 80, 40, count)
    assert {chunk.page for chunk in chunks} == {1, 2}
    assert all((chunk.page == 2) == (chunk.start >= second) for chunk in chunks)


def test_windows_cover_their_passage(count):
    chunks = split(markdown_document("# Title\n\n" + " ".join(SENTENCES)), 120, 40, count)
    for chunk in chunks:
        parts = [chunk.text[start:end] for start, end in chunk.windows]
        assert len(parts) > 1
        assert "".join("".join(parts).split()) == "".join(chunk.text.split())
        assert all(count(part) <= 45 for part in parts)


def test_a_short_passage_is_one_window(count):
    (chunk,) = split(ParsedDocument(text="A short text.", markdown=False), 120, 40, count)
    assert chunk.windows == ((0, 13),)


def test_the_prefix_names_what_the_passage_is_about():
    assert search_prefix("Guide", "") == "Guide"
    assert search_prefix("Guide", "Guide > Set-up") == "Guide > Set-up"
    assert search_prefix("handbook", "Leave") == "handbook > Leave"
    assert search_prefix("", "Leave") == "Leave"
    assert search_prefix("", "") == ""


def test_beir_lines_are_read_and_a_bad_one_is_named_by_its_number(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = [
        {"_id": "a", "title": "Only a title", "text": ""},
        {"_id": 7, "text": "No title."},
        {"_id": "c", "title": "", "text": ""},
    ]
    corpus.write_text("\n".join(map(json.dumps, rows)) + "\n\n{broken\n")
    passages = read_corpus(corpus)
    assert [(one.id, one.title, one.text) for one in (next(passages), next(passages))] == [
        ("a", "Only a title", "Only a title"),
        ("7", "", "No title."),
    ]
    with pytest.raises(DocumentRejected, match="line 5"):
        next(passages)
