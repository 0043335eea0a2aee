"""Wrong settings of documents and retrieval are told by name before anything runs."""

from __future__ import annotations

import pytest

from agents.checks import check_documents


def test_the_defaults_are_right():
    assert check_documents() == []


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("ADAPTRAG_CHUNK_TOKENS", 0, "agents.E001"),
        ("ADAPTRAG_WINDOW_TOKENS", 500, "agents.E001"),
        ("ADAPTRAG_BM25_BACKEND", "bm26", "agents.E002"),
        ("ADAPTRAG_EMBEDDING_BACKEND", "tensorflow", "agents.E002"),
        ("ADAPTRAG_EMBEDDING_MODEL", "/nowhere", "agents.E003"),
    ],
)
def test_a_wrong_one_is_named_with_a_hint(settings, name, value, code):
    setattr(settings, name, value)
    (message,) = check_documents()
    assert (message.id, name in message.msg, bool(message.hint)) == (code, True, True)
