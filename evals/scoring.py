"""One agent's answer to one item -> every metric that can be computed for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agents.strategies.base import AgentAnswer
from agents.strategies.prompt import abstains
from evals import metrics

Embed = Callable[[Sequence[str]], np.ndarray]


def answer_metrics(
    answer: AgentAnswer,
    *,
    answers: Sequence[str],
    gold: Mapping[str, float],
    unanswerable: bool = False,
    sources: Mapping[int, str],
    top_k: int,
    embed: Embed | None = None,
) -> dict[str, float]:
    """Metrics by name; those that can't be computed are left out, so that no mean counts them as zeros.

    answers: gold answers; gold: document source -> gain; sources: document id -> source of the documents retrieved. An agent
    could answer where a gold passage stood in its prompt, or, with no passage in it, among what it found; without gold passages
    where there is a gold answer; never an `unanswerable` question.
    """
    ranked = list(dict.fromkeys(sources.get(passage.document_id, "") for passage in answer.passages))
    used = answer.shown
    texts = [passage.text for passage in used]
    relevant = {source for source, gain in gold.items() if gain > 0}
    abstained, answerable = abstains(answer.text), bool(answers)
    values = {
        "exact_match": metrics.exact_match(answer.text, answers),
        "token_f1": metrics.token_f1(answer.text, answers),
        "rouge_l": metrics.rouge_l(answer.text, answers),
        "token_support": metrics.token_support(answer.text, texts),
        f"recall@{top_k}": metrics.recall_at(top_k, ranked, gold),
        f"ndcg@{top_k}": metrics.ndcg_at(top_k, ranked, gold),
        "mrr": metrics.reciprocal_rank_at(top_k, ranked, gold),
    }
    if embed is not None:
        values["embedding_support"] = metrics.embedding_support(answer.text, texts, embed)
    if relevant:
        shown = [sources.get(passage.document_id, "") for passage in used]
        precision, recall = metrics.citation_precision_recall(answer.text, shown, list(relevant))
        values |= {"citation_precision": precision, "citation_recall": math.nan if abstained else recall}
        answerable = bool(relevant & set(shown or ranked))
    if unanswerable or relevant or answers:
        values["abstention"] = metrics.abstention_quality(abstained=abstained, answerable=answerable and not unanswerable)
    return {name: round(value, 6) for name, value in values.items() if not math.isnan(value)}
