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
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

K1, B = 1.5, 0.75
OWN_WEIGHT = 3
FLOOR = 0.25  # of the mean idf, as rank-bm25's epsilon
WEIGHTS = "data.csc.index.npy"  # bm25s's name for it
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


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What BM25 knows of all passages together. idf: float64, by the term ids of `vocabulary`; lengths in weighted tokens."""

    vocabulary: dict[str, int]
    idf: np.ndarray
    passages: int
    average_length: float


def write_bm25(folder: Path, passages: Sequence[Bm25Passage], language: str, base: Statistics | None = None) -> None:
    """Index at least one passage into the folder, in bm25s's own files and the counts that rank-bm25 starts from.

    With `base`, the passages are weighed by the statistics of an index that they will be searched beside, so that the scores of
    both compare; only terms that it lacks get an idf of their own.
    """
    from scipy import sparse

    bm25s = _quiet_bm25s()
    vocabulary: dict[str, int] = {}
    own = _term_counts((one.text for one in passages), vocabulary, language)
    prefixes = _term_counts((one.prefix for one in passages), vocabulary, language)
    if not vocabulary:  # nothing but punctuation: bm25s can't index an empty vocabulary
        vocabulary[""] = 0
    shape = (len(passages), len(vocabulary))
    counts = _with_surroundings([one.document for one in passages], _wide(own, shape), _wide(prefixes, shape))
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    if not lengths.any():
        counts, lengths = sparse.csr_array(([1], ([0], [vocabulary[""]])), shape), np.ones(len(passages))
    statistics = _statistics(counts, lengths, vocabulary, base)
    columns = counts.tocsc()
    columns.sort_indices()
    _save(folder / "counts.npy", columns.data.astype(np.min_scalar_type(int(columns.data.max()))))
    _save(folder / "idf.npy", statistics.idf)
    shared = {"passages": statistics.passages, "average_length": statistics.average_length, "own": base is None}
    (folder / "statistics.json").write_text(json.dumps(shared))
    index = bm25s.BM25(k1=K1, b=B, method="atire", idf_method="robertson")
    index.scores = {
        "data": _weights(columns, lengths, statistics),
        "indices": columns.indices.astype(np.int32),
        "indptr": columns.indptr.astype(np.int64),
        "num_docs": len(passages),
    }
    index.vocab_dict, index.nonoccurrence_array = vocabulary, None
    index.save(folder, show_progress=False)


def _term_counts(texts: Iterable[str], vocabulary: dict[str, int], language: str):
    """How often each term stands in each text, as a sparse matrix; new terms are added to the vocabulary."""
    from scipy import sparse

    terms, starts = array("i"), array("q", [0])
    previous, found = None, array("i")
    for text in texts:
        if text != previous:  # passages of one section have one prefix
            tokens = tokenize(text, language)
            previous, found = text, array("i", (vocabulary.setdefault(token, len(vocabulary)) for token in tokens))
        terms.extend(found)
        starts.append(len(terms))
    ones = np.ones(len(terms), np.int32)
    counts = sparse.csr_array(
        (ones, np.frombuffer(terms, np.int32), np.frombuffer(starts, np.int64)), (len(starts) - 1, max(1, len(vocabulary)))
    )
    counts.sum_duplicates()
    return counts


def _wide(counts, shape: tuple[int, int]):
    counts.resize(shape)
    return counts


def _with_surroundings(documents: Sequence[int], own, prefixes):
    """Weighted counts: OWN_WEIGHT times the passage's own terms, once those of its prefix and of its neighbours."""
    from scipy import sparse

    near = (np.diff(np.asarray(documents, np.int64)) == 0).astype(np.int32)
    diagonals = [np.full(len(documents), OWN_WEIGHT, np.int32), near, near]
    weights = sparse.diags_array(diagonals, offsets=[0, -1, 1], shape=(len(documents),) * 2, dtype=np.int32)
    return (weights.tocsr() @ own + prefixes).tocsr()


def _statistics(counts, lengths: np.ndarray, vocabulary: dict[str, int], base: Statistics | None) -> Statistics:
    frequencies = np.bincount(counts.indices, minlength=len(vocabulary))
    passages = len(lengths) + (base.passages if base else 0)
    idf = np.log((passages - frequencies + 0.5) / (frequencies + 0.5))
    if base is None:
        present = idf[frequencies > 0]
        floor = FLOOR * present.mean() if present.mean() > 0 else math.log(1 + 0.5 / (passages + 0.5))
        idf[2 * frequencies >= passages] = floor
        return Statistics(vocabulary=vocabulary, idf=idf, passages=passages, average_length=float(lengths.mean()))
    known = [(here, base.vocabulary[term]) for term, here in vocabulary.items() if term in base.vocabulary]
    idf = np.maximum(idf, base.idf.min())
    if known:
        here, there = np.array(known).T
        idf[here] = base.idf[there]
    return Statistics(vocabulary=vocabulary, idf=idf, passages=base.passages, average_length=base.average_length)


def _weights(columns, lengths: np.ndarray, statistics: Statistics) -> np.ndarray:
    """float32: what each occurrence of a term in a passage adds to a score, in the order of the matrix's data."""
    often = columns.data.astype(np.float32)
    norms = (K1 * (1 - B + B * lengths / statistics.average_length)).astype(np.float32)
    idf = np.repeat(statistics.idf.astype(np.float32), np.diff(columns.indptr))
    return idf * often * np.float32(K1 + 1) / (often + norms[columns.indices])


def read_statistics(folder: Path) -> Statistics:
    vocabulary = json.loads((folder / "vocab.index.json").read_text())
    shared = json.loads((folder / "statistics.json").read_text())
    return Statistics(
        vocabulary=vocabulary,
        idf=np.load(folder / "idf.npy"),
        passages=shared["passages"],
        average_length=shared["average_length"],
    )


def term_matrix(folder: Path, values: str):
    """A sparse matrix, passages by terms: "counts.npy", or what each term adds to a score, WEIGHTS."""
    from scipy import sparse

    parts = [np.load(folder / name) for name in (values, "indices.csc.index.npy", "indptr.csc.index.npy")]
    passages = json.loads((folder / "params.index.json").read_text())["num_docs"]
    return sparse.csc_array(tuple(parts), (passages, len(parts[2]) - 1)).tocsr()


def _save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


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

        statistics = read_statistics(folder)
        terms = np.array(sorted(statistics.vocabulary, key=statistics.vocabulary.get), dtype=object)
        rows = term_matrix(folder, "counts.npy")
        self._index = BM25Okapi(
            [np.repeat(terms[rows.indices[a:b]], rows.data[a:b]).tolist() for a, b in pairwise(rows.indptr)], k1=K1, b=B
        )
        if not json.loads((folder / "statistics.json").read_text())["own"]:
            self._index.idf = dict(zip(terms.tolist(), statistics.idf.tolist(), strict=True))
            self._index.avgdl = statistics.average_length

    def scores(self, tokens: Sequence[str]) -> np.ndarray:
        return np.maximum(self._index.get_scores(list(tokens)), 0)
