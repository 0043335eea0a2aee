"""BM25 over passages: bm25s as the index, rank-bm25 as the reference. Both read the same files.

The formula is Okapi's as rank-bm25 has it (Trotman et al., 2014: ATIRE's term weight with Robertson's idf), k1 = 1.5, b = 0.75.
Robertson's idf is not positive for a term that stands in half of the passages or more; such a term gets a small positive one,
so that it never counts against a passage and a collection of one passage can be searched.

Each passage is indexed as a document of fields (BM25F; Robertson, Zaragoza & Taylor, 2004): its own words OWN_WEIGHT times, its
title and headings once, and the words of its neighbours in the document once, since what a passage is about is often said just
before or after it. What that brings: docs/decisions/0002-retrieval.md.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

K1, B = 1.5, 0.75
OWN_WEIGHT = 3
FLOOR = 0.25  # of the mean idf, as rank-bm25's epsilon
BACKENDS = ("bm25s", "rank_bm25")
# Words of letters and digits; a script without spaces gives one token a character.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
STOP_LISTS = {
    "english": "STOPWORDS_EN_PLUS", "german": "STOPWORDS_GERMAN", "dutch": "STOPWORDS_DUTCH", "french": "STOPWORDS_FRENCH",
    "spanish": "STOPWORDS_SPANISH", "portuguese": "STOPWORDS_PORTUGUESE", "italian": "STOPWORDS_ITALIAN",
    "russian": "STOPWORDS_RUSSIAN", "swedish": "STOPWORDS_SWEDISH", "norwegian": "STOPWORDS_NORWEGIAN",
    "turkish": "STOPWORDS_TURKISH", "danish": "STOPWORDS_DANISH",
}  # fmt: skip


class Bm25(Protocol):
    def scores(self, tokens: Sequence[str]) -> np.ndarray:
        """Float array, shape (passages,), 0 where no token occurs. A token that is given twice counts twice."""
        ...


@functools.cache
def stop_words(language: str) -> frozenset[str]:
    from bm25s import stopwords

    return frozenset(getattr(stopwords, STOP_LISTS[language])) if language in STOP_LISTS else frozenset()


def tokenize(text: str, language: str) -> list[str]:
    """Lower-case stems without stop words."""
    import Stemmer

    stop = stop_words(language)
    words = [word for word in WORD.findall(text.lower()) if word not in stop]
    # A stemmer object must not be shared between threads; making one costs a microsecond.
    return words if language == "none" else Stemmer.Stemmer(language).stemWords(words)


@dataclass(frozen=True, kw_only=True)
class Bm25Passage:
    """Passages of one document follow each other."""

    document: int
    prefix: str
    text: str


def write_bm25(folder: Path, passages: Sequence[Bm25Passage], language: str) -> None:
    """Index at least one passage into the folder: bm25s's own files, and the token ids that rank-bm25 starts from."""
    bm25s = _quiet_bm25s()
    vocabulary: dict[str, int] = {}

    def ids(text: str) -> list[int]:
        return [vocabulary.setdefault(token, len(vocabulary)) for token in tokenize(text, language)]

    documents = field_tokens([(one.document, ids(one.prefix), ids(one.text)) for one in passages])
    if not vocabulary:  # nothing but punctuation: bm25s can't index an empty vocabulary
        vocabulary, documents[0] = {"": 0}, [0]
    index = bm25s.BM25(k1=K1, b=B, method="atire", idf_method="robertson")
    index.index((documents, vocabulary), show_progress=False)
    starts = np.zeros(len(documents) + 1, np.int64)
    np.cumsum([len(tokens) for tokens in documents], out=starts[1:])
    tokens = np.fromiter(chain.from_iterable(documents), np.int32, count=starts[-1])
    _raise_frequent_terms(index.scores, tokens, starts)
    index.save(folder, show_progress=False)
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "token_starts.npy", starts)


def field_tokens(passages: Sequence[tuple[int, list[int], list[int]]]) -> list[list[int]]:
    """The weighted tokens of each passage, from its (document, tokens of the prefix, tokens of the text)."""
    around = []
    for row, (document, prefix, own) in enumerate(passages):
        neighbours = [
            passages[near][2] for near in (row - 1, row + 1) if 0 <= near < len(passages) and passages[near][0] == document
        ]
        around.append(prefix + own * OWN_WEIGHT + list(chain.from_iterable(neighbours)))
    return around


def _raise_frequent_terms(scores: dict, tokens: np.ndarray, starts: np.ndarray) -> None:
    """Give terms in at least half of the passages the floor's weight instead of the 0 that bm25s has for them."""
    count, lengths = len(starts) - 1, np.diff(starts)
    indptr, indices, data = scores["indptr"], scores["indices"], scores["data"]
    frequencies = np.diff(indptr)
    present = frequencies[frequencies > 0]
    mean = float(np.log((count - present + 0.5) / (present + 0.5)).mean())
    floor = FLOOR * mean if mean > 0 else math.log(1 + 0.5 / (count + 0.5))
    owners = np.repeat(np.arange(count), lengths)
    for term in np.flatnonzero(2 * frequencies >= count):
        column = slice(indptr[term], indptr[term + 1])
        rows = indices[column]
        often = np.bincount(owners[tokens == term], minlength=count)[rows]
        data[column] = floor * often * (K1 + 1) / (often + K1 * (1 - B + B * lengths[rows] / lengths.mean()))


def _quiet_bm25s():
    """The package sets its own logger to DEBUG."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s


def read_bm25(folder: Path, backend: str) -> Bm25:
    return RankBm25(folder) if backend == "rank_bm25" else Bm25s(folder)


class Bm25s:
    """bm25s's index, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        bm25s = _quiet_bm25s()
        self._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        # Plain arrays over the mapped files: slicing numpy's memmap class costs ten times as much.
        self._index.scores = {
            name: np.asarray(part) if isinstance(part, np.ndarray) else part for name, part in self._index.scores.items()
        }

    def scores(self, tokens: Sequence[str]) -> np.ndarray:
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(list(tokens)))


class RankBm25:
    """rank-bm25's BM25Okapi over the same tokens; slow and in memory, for comparison."""

    def __init__(self, folder: Path) -> None:
        from rank_bm25 import BM25Okapi

        vocabulary = json.loads((folder / "vocab.index.json").read_text())
        terms = np.array(list(vocabulary), dtype=object)[np.argsort(list(vocabulary.values()))]
        tokens, starts = np.load(folder / "tokens.npy"), np.load(folder / "token_starts.npy")
        self._index = BM25Okapi([terms[tokens[a:b]].tolist() for a, b in pairwise(starts)], k1=K1, b=B)

    def scores(self, tokens: Sequence[str]) -> np.ndarray:
        return np.maximum(self._index.get_scores(list(tokens)), 0)
