"""The BM25 index against rank-bm25, its reference."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from agents.models import LANGUAGES
from agents.retrieval.bm25 import Bm25Passage, field_tokens, read_bm25, tokenize, write_bm25

WORDS = [f"word{number}" for number in range(300)]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    rng = random.Random(7)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    return [" ".join(rng.choices(WORDS, weights, k=rng.randint(5, 120))) for _ in range(200)]


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bm25")
    write_bm25(folder, passages(*corpus), "english")
    return folder


def passages(*texts: str) -> list[Bm25Passage]:
    """Ten of them in a document, with a title."""
    return [Bm25Passage(document=number // 10, prefix="title", text=text) for number, text in enumerate(texts)]


@pytest.mark.parametrize("backend", ["bm25s", "rank_bm25"])
def test_scores_agree_with_rank_bm25_for_terms_in_fewer_than_half_of_the_passages(corpus, folder, backend):
    tokens = field_tokens([(number // 10, ["titl"], tokenize(text, "english")) for number, text in enumerate(corpus)])
    reference, index = BM25Okapi(tokens), read_bm25(folder, backend)
    frequency = {word: sum(word in set(text) for text in tokens) for word in set().union(*tokens)}
    rare = sorted(word for word, count in frequency.items() if count < len(corpus) / 2)
    rng = random.Random(8)
    for _ in range(100):
        query = rng.choices(rare, k=rng.randint(1, 12))
        np.testing.assert_allclose(index.scores(query), reference.get_scores(query), atol=1e-4)


def test_a_frequent_term_counts_a_little_and_never_against_a_passage(folder, corpus):
    index = read_bm25(folder, "bm25s")
    frequent, rare = tokenize("word0", "english"), tokenize("word250", "english")
    scores = index.scores(frequent)
    assert 0 < scores.max() < index.scores(rare).max()
    assert (scores[["word0" in text.split() for text in corpus]] > 0).all()


@pytest.mark.parametrize("texts", [["A single passage about rain."], ["Rain.", "Rain and wind."], ["Rain.", "Wind.", "Snow."]])
def test_a_tiny_collection_can_be_searched(tmp_path, texts):
    write_bm25(tmp_path, passages(*texts), "english")
    assert read_bm25(tmp_path, "bm25s").scores(tokenize("what of the rain?", "english"))[0] > 0


def test_a_passage_is_indexed_with_its_title_and_its_neighbours():
    rows = [(1, [0], [1, 2]), (1, [0], [3]), (1, [0], [4]), (2, [9], [5])]
    assert field_tokens(rows) == [[0, 1, 2, 1, 2, 1, 2, 3], [0, 3, 3, 3, 1, 2, 4], [0, 4, 4, 4, 3], [9, 5, 5, 5]]


def test_unknown_words_and_no_words_score_nothing(folder):
    index = read_bm25(folder, "bm25s")
    assert not index.scores(["never"]).any()
    assert not index.scores([]).any()


def test_passages_without_words_are_indexed(tmp_path):
    write_bm25(tmp_path, [Bm25Passage(document=1, prefix="", text=text) for text in ("...", "!?")], "english")
    assert not read_bm25(tmp_path, "bm25s").scores(tokenize("rain", "english")).any()


def test_words_are_stemmed_and_stop_words_left_out():
    assert tokenize("The transmissions of the virus are transmitting?", "english") == ["transmiss", "virus", "transmit"]
    assert tokenize("Die Häuser und das Haus", "german") == ["haus", "haus"]
    assert tokenize("The cats", "none") == ["the", "cats"]
    assert tokenize("北京 is big", "english") == ["北", "京", "big"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_on_offer_works(language):
    assert tokenize("rain", language)
