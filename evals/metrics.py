"""Scores of one answer or one ranking. Pure functions: text and ids in, a float in [0, 1] out, NaN where there is no score."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CITATION = re.compile(r"\[(\d{1,3})\]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
NAN = float("nan")


def squad_normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra white space, in that order (Rajpurkar et al., 2016).

    >>> squad_normalised("The  U.S. Congress,")
    'us congress'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 where the normalised answer equals one of the normalised golds (SQuAD). NaN without golds."""
    if not golds:
        return NAN
    normalised = squad_normalised(answer)
    return float(any(normalised == squad_normalised(gold) for gold in golds))


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall against the best gold (SQuAD 1.1 and 2.0: two empty texts match).

    >>> token_f1("Marta Olsen keeps it", ["Marta Olsen"])
    0.6666666666666666
    """
    if not golds:
        return NAN
    tokens = squad_normalised(answer).split()
    return max(_overlap_f1(tokens, squad_normalised(gold).split()) for gold in golds)


def _overlap_f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = sum((Counter(answer) & Counter(gold)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words against the best gold (ROUGE-L of Lin, 2004, with beta 1)."""
    if not golds:
        return NAN
    words = re.findall(r"\w+", answer.lower())
    best = 0.0
    for gold in golds:
        reference = re.findall(r"\w+", gold.lower())
        if common := _common_subsequence(words, reference):
            best = max(best, 2 * common / (len(words) + len(reference)))
    return best


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for column, other in enumerate(right, start=1):
            diagonal, row[column] = row[column], diagonal + 1 if word == other else max(row[column], row[column - 1])
    return row[-1]


def token_support(answer: str, passages: Sequence[str]) -> float:
    """Share of the answer's normalised tokens that stand in the passages: a word-level check, blind to meaning."""
    tokens = squad_normalised(answer).split()
    if not tokens or not passages:
        return NAN
    known = set(squad_normalised(" ".join(passages)).split())
    return sum(token in known for token in tokens) / len(tokens)


def embedding_support(answer: str, passages: Sequence[str], embed: Callable[[Sequence[str]], np.ndarray]) -> float:
    """Mean over the answer's sentences of the highest cosine to any sentence of the passages, clipped to [0, 1].

    `embed` maps n texts to unit vectors, float (n, d). It measures likeness of topic, not entailment: a sentence that denies
    a passage scores high too.
    """
    claims, evidence = sentences(answer), [part for passage in passages for part in sentences(passage)]
    if not claims or not evidence:
        return NAN
    similarity = embed(claims) @ embed(evidence).T
    return float(np.clip(similarity.max(axis=1), 0.0, 1.0).mean())


def sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def citations(answer: str) -> list[int]:
    """Passage numbers cited as [n], each once, in order."""
    return list(dict.fromkeys(int(number) for number in _CITATION.findall(answer)))


def citation_precision_recall(answer: str, shown: Sequence[str], gold: Sequence[str]) -> tuple[float, float]:
    """Precision and recall of the cited passages against the gold ones among those shown.

    `shown` are the ids of passages [1], [2], ... in the prompt, `gold` the ids that hold the answer. A number outside the
    prompt is a wrong citation. Precision is NaN without a citation, recall NaN where no gold passage was shown.
    """
    cited = citations(answer)
    right = [shown[number - 1] for number in cited if 1 <= number <= len(shown) and shown[number - 1] in gold]
    citable = set(shown) & set(gold)
    return len(right) / len(cited) if cited else NAN, len(set(right)) / len(citable) if citable else NAN


def recall_at(k: int, ranked: Sequence[str], gold: Sequence[str] | Mapping[str, float]) -> float:
    """Share of the gold passages among the first k."""
    wanted = _gains(gold)
    return len(wanted.keys() & set(ranked[:k])) / len(wanted) if wanted else NAN


def ndcg_at(k: int, ranked: Sequence[str], gold: Sequence[str] | Mapping[str, float]) -> float:
    """Normalised discounted cumulative gain with gains as given and log2 discount (Järvelin & Kekäläinen, 2002)."""
    wanted = _gains(gold)
    if not wanted:
        return NAN
    gained = sum(wanted.get(item, 0.0) / math.log2(rank + 1) for rank, item in enumerate(dict.fromkeys(ranked[:k]), start=1))
    ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(sorted(wanted.values(), reverse=True)[:k], start=1))
    return gained / ideal


def reciprocal_rank_at(k: int, ranked: Sequence[str], gold: Sequence[str] | Mapping[str, float]) -> float:
    """1 / rank of the first gold passage among the first k, 0 where there is none."""
    wanted = _gains(gold)
    if not wanted:
        return NAN
    return next((1.0 / rank for rank, item in enumerate(ranked[:k], start=1) if item in wanted), 0.0)


def abstention_quality(*, abstained: bool, answerable: bool) -> float:
    """1 where an agent that could answer did, or one that could not said so."""
    return float(abstained != answerable)


def _gains(gold: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(gold, Mapping):
        return {item: float(gain) for item, gain in gold.items() if gain > 0}
    return dict.fromkeys(gold, 1.0)
