"""What `benchmark retrieval` measures with, against values worked out by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from agents.strategies import STRATEGIES
from benchmarks import retrieval
from benchmarks.retrieval_scale import WORDS, MadeVectors, made_texts
from benchmarks.retrieval_site import percentiles, quality

RANKING = ["a", "b", "c", "d"]


def test_measures_of_one_ranking():
    found = quality({"1": RANKING}, {"1": {"b": 1, "d": 2, "z": 1}})
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found == pytest.approx({"recall@5": 2 / 3, "ndcg@10": (1 / math.log2(3) + 2 / math.log2(5)) / ideal, "mrr@10": 0.5})


def test_a_document_counts_at_its_best_passage_and_only_ten_are_looked_at():
    assert quality({"1": ["x", "x", "x", "x", "x", "a"]}, {"1": {"a": 1}})["recall@5"] == 1
    assert quality({"1": [*"bcdefghijk", "a"]}, {"1": {"a": 1}})["mrr@10"] == 0


def test_quality_is_the_mean_over_the_questions_with_and_without_results():
    found = quality({"1": RANKING, "2": []}, {"1": {"a": 1}, "2": {"a": 1}})
    assert found == {"recall@5": 0.5, "ndcg@10": 0.5, "mrr@10": 0.5}


def test_every_strategy_is_measured_that_searches_without_a_training():
    assert set(retrieval.STRATEGIES.split(",")) == set(STRATEGIES) - {"lora_rag", "quantized_rag"}


def test_percentiles():
    assert percentiles([float(value) for value in range(100)]) == {"p50_ms": 50, "p95_ms": 95}


def test_made_passages_have_the_words_of_real_ones_as_often():
    rng = random.Random(1)
    real = {str(number): " ".join(rng.choices(["often"] * 9 + ["rarely"], k=120)) for number in range(20)}
    texts = made_texts(real, 200, seed=2)
    words = " ".join(texts).split()
    assert len(words) == 200 * WORDS
    assert words.count("rarely") / len(words) == pytest.approx(0.1, abs=0.02)
    assert texts != made_texts(real, 200, seed=3)


def test_made_vectors_are_of_length_one_and_differ():
    real = np.eye(8, dtype=np.float32)
    known, vectors = MadeVectors(real, seed=1).find(np.zeros((50, 32), np.uint8))
    assert known.all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors.round(4), axis=0)) == 50
