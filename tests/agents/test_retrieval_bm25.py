"""The BM25 index against rank-bm25, its reference."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from agents.models import LANGUAGES
from agents.retrieval.bm25 import OWN_WEIGHT, Bm25Passage, read_bm25, read_statistics, tokenize, write_bm25

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


def surrounded(texts: list[str], language: str = "english") -> list[list[str]]:
    """The weighted tokens of each passage, by hand."""
    tokens = [tokenize(text, language) for text in texts]

    def near(row: int, other: int) -> list[str]:
        return tokens[other] if 0 <= other < len(tokens) and other // 10 == row // 10 else []

    return [["titl", *tokens[row] * OWN_WEIGHT, *near(row, row - 1), *near(row, row + 1)] for row in range(len(tokens))]


def rare_queries(tokens: list[list[str]]) -> list[list[str]]:
    """Terms of fewer than half of the passages."""
    frequency = {word: sum(word in set(text) for text in tokens) for word in set().union(*tokens)}
    rare = sorted(word for word, count in frequency.items() if count < len(tokens) / 2)
    rng = random.Random(8)
    return [rng.choices(rare, k=rng.randint(1, 12)) for _ in range(100)]


@pytest.mark.parametrize("backend", ["bm25s", "rank_bm25"])
def test_scores_agree_with_rank_bm25_for_terms_in_fewer_than_half_of_the_passages(corpus, folder, backend):
    tokens = surrounded(corpus)
    reference, index = BM25Okapi(tokens), read_bm25(folder, backend)
    for query in rare_queries(tokens):
        np.testing.assert_allclose(index.scores(query), reference.get_scores(query), atol=1e-4)


def test_scores_agree_with_the_index_that_bm25s_makes_itself(corpus, folder):
    import bm25s

    tokens = surrounded(corpus)
    reference = bm25s.BM25(k1=1.5, b=0.75, method="atire", idf_method="robertson")
    reference.index(tokens, show_progress=False)
    index = read_bm25(folder, "bm25s")
    for query in rare_queries(tokens):
        np.testing.assert_allclose(index.scores(query), reference.get_scores(query), atol=1e-5)


@pytest.mark.parametrize("backend", ["bm25s", "rank_bm25"])
def test_newer_passages_score_by_the_statistics_of_their_base(corpus, folder, tmp_path, backend):
    write_bm25(tmp_path, passages(*corpus[:30], "unheard words"), "english", read_statistics(folder))
    newer, base = read_bm25(tmp_path, backend), read_bm25(folder, "bm25s")
    for query in rare_queries(surrounded(corpus)):
        np.testing.assert_allclose(newer.scores(query)[:30], base.scores(query)[:30], atol=1e-4)
    unheard = newer.scores(["unheard"])
    assert unheard[30] > 0
    assert not unheard[:29].any()


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


def test_a_passage_is_found_by_its_title_and_its_neighbours_and_best_by_its_own_words(tmp_path):
    texts = {"rain": 1, "wind": 1, "snow": 1, "fog": 2}
    rows = [Bm25Passage(document=document, prefix="weather", text=text) for text, document in texts.items()]
    write_bm25(tmp_path, rows, "english")
    index = read_bm25(tmp_path, "bm25s")
    assert (index.scores(["weather"]) > 0).all()
    rain, fog = index.scores(["rain"]), index.scores(["fog"])
    assert rain[0] > rain[1] > rain[2] == rain[3] == 0
    assert fog[3] > fog[0] == fog[1] == fog[2] == 0


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
