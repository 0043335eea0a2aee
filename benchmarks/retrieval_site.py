"""The measured process of `benchmark retrieval`: a site of its own, which it fills and asks."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DEEP = 100  # passages behind a ranking of 10 documents
DEEP_STRATEGY = 30
TIMED = 300  # questions
MEASURES = {"recall@5": "recall_5", "ndcg@10": "ndcg_cut_10", "mrr@10": "recip_rank"}

_salt = itertools.count(1)

Qrels = Mapping[str, Mapping[str, int]]


def quality(rankings: Mapping[str, Sequence[str]], qrels: Qrels) -> dict[str, float]:
    """Means over the questions, by pytrec-eval. rankings: documents by question, best first."""
    import pytrec_eval

    judge = pytrec_eval.RelevanceEvaluator(
        {question: dict(qrels[question]) for question in rankings}, {"recall.5", "ndcg_cut.10", "recip_rank"}
    )
    scored = {
        question: {document: float(-rank) for rank, document in enumerate(list(dict.fromkeys(ranking))[:10])}
        for question, ranking in rankings.items()
    }
    judged = judge.evaluate(scored)
    # A question without any result is missing from its answer, and counts as 0.
    return {name: sum(one[measure] for one in judged.values()) / len(rankings) for name, measure in MEASURES.items()}


def read_questions(dataset: Path) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Texts and judgements by question, of the questions that have a relevant document."""
    qrels: dict[str, dict[str, int]] = {}
    for line in (dataset / "qrels/test.tsv").read_text().splitlines()[1:]:
        question, document, gain = line.split("\t")
        if int(gain) > 0:
            qrels.setdefault(question, {})[document] = int(gain)
    with (dataset / "queries.jsonl").open() as handle:
        questions = {row["_id"]: row["text"] for row in map(json.loads, handle) if row["_id"] in qrels}
    return questions, qrels


def measure(dataset: Path, most: int, strategies: Sequence[str], peers: str) -> list[dict[str, Any]]:
    """Index the dataset into this process's site and measure each retriever."""
    from agents import services
    from agents.models import Document
    from agents.retrieval.embedding import embedder
    from agents.retrieval.search import METHODS, retrieve
    from agents.strategies import STRATEGIES
    from benchmarks.retrieval_memory import memory_of
    from benchmarks.retrieval_peers import llama_index, rank_bm25

    questions, qrels = read_questions(dataset)
    questions = dict(list(questions.items())[: most or None])
    embedder()  # converted once a machine, which is no part of indexing
    begun = time.perf_counter()
    collection = services.collection_get_or_create("benchmark")
    services.corpus_add(collection=collection, folder=dataset, progress=lambda *_: None)
    build = services.collection_index(collection)
    indexed = time.perf_counter() - begun
    names = {pk: data["beir_id"] for pk, data in Document.objects.values_list("id", "metadata")}
    rows = []
    for method in METHODS:
        rankings = {
            key: [names[passage.document_id] for passage in retrieve(collection, text, DEEP, method)]
            for key, text in questions.items()
        }
        row = {"retriever": method, **quality(rankings, qrels), "questions": len(questions), "index_seconds": indexed}
        row |= {"passages": build.chunks, "memory_bytes": memory_of(collection.name, method, questions)}
        rows.append(row | search_times(lambda text, method=method: retrieve(collection, text, 10, method), questions))
    for name in strategies:
        begun = time.perf_counter()
        if needs := STRATEGIES[name].needs:
            services.derived_refresh(collection, kinds=needs)
        seconds, search = time.perf_counter() - begun, strategy_search(collection, name)
        rankings = {key: [names[one] for one in search(text, DEEP_STRATEGY)] for key, text in questions.items()}
        row = {"retriever": name, **quality(rankings, qrels), "questions": len(questions), "index_seconds": indexed + seconds}
        row |= {"passages": build.chunks, "memory_bytes": memory_of(collection.name, name, questions)}
        rows.append(row | search_times(lambda text, search=search: search(text, 10), questions))
    rows.append(embedding_row(questions))
    documents = corpus(dataset)
    for peer in (rank_bm25, llama_index) if peers else (rank_bm25,):
        rankings, row = peer(documents, questions, peers)
        rows.append({"retriever": row.pop("retriever"), **quality(rankings, qrels), "questions": len(questions), **row})
    return rows


def strategy_search(collection: Any, name: str) -> Callable[[str, int], list[int]]:
    """A search by a strategy with a model that writes nothing of use."""
    from agents import services
    from agents.models import AgentVariant
    from agents.strategies import AgentRequest

    variant = AgentVariant(name=name, strategy=name, chat_backend="scripted", chat_options={"answer": "I don't know."})

    def search(question: str, k: int) -> list[int]:
        answer = services.agent_answer(variant, AgentRequest(question=question, collection=collection, top_k=k))
        return [passage.document_id for passage in answer.passages]

    return search


def corpus(dataset: Path) -> dict[str, str]:
    """Title and text by document."""
    from agents.ingestion.beir import corpus_file, read_corpus

    return {one.id: f"{one.title} {one.text}".strip() for one in read_corpus(corpus_file(dataset))}


def search_times(search: Callable[[str], Any], questions: Mapping[str, str]) -> dict[str, float]:
    """p50 and p95 with the embedding of the question and without it, and p50 of the processor's time without it."""
    fresh = " " * next(_salt)  # each time questions that were not embedded yet
    timed = [f"{text}{fresh}" for text in list(questions.values())[:TIMED]]
    first, again = percentiles(times(search, timed)), percentiles(times(search, timed))
    busy = percentiles(times(search, timed, time.thread_time))
    return {
        **first, "search_p50_ms": again["p50_ms"], "search_p95_ms": again["p95_ms"], "search_cpu_p50_ms": busy["p50_ms"],
    }  # fmt: skip


def embedding_row(questions: Mapping[str, str]) -> dict[str, Any]:
    """One question's embedding, while as many processes compute as there are other cores."""
    from agents.retrieval.embedding import embedder

    texts = [f"{text}  " for text in list(questions.values())[:TIMED]]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 2) - 1)]
    try:
        taken = times(lambda text: embedder().embed([text]), texts)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return {"retriever": "embedding a question, other cores busy", "questions": len(texts), **percentiles(taken)}


def times(search: Callable[[str], Any], texts: Iterable[str], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Milliseconds by the clock, for each text."""
    found = []
    for text in texts:
        begun = clock()
        search(text)
        found.append((clock() - begun) * 1000)
    return found


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50_ms": ordered[len(ordered) // 2], "p95_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]}


def resident() -> int:
    """Bytes of memory that this process holds now (Linux), else its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    from django.core.management import call_command

    from benchmarks.retrieval_scale import measure_scale

    call_command("migrate", verbosity=0)
    dataset = Path(wanted["dataset"])
    if wanted["scale"]:
        return measure_scale(dataset, wanted["scale"], wanted["questions"], wanted["peers"])
    return measure(dataset, wanted["questions"], wanted["strategies"], wanted["peers"])


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps(main(json.loads(sys.argv[1]))))
