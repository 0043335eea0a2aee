"""Retrieval: quality and time of BM25, dense and hybrid search on a BEIR folder, beside rank-bm25 alone.

The folder is ingested into a throw-away site by the product's own services. Quality counts documents: the ranking of passages,
each document at its best passage. Times are of `agents.retrieval.search.retrieve` for 10 passages, with the embedding of the
question and without it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.errors import AdaptRAGError, InvalidInput

ROOT = Path(__file__).resolve().parent.parent
DEEP = 100  # passages behind a ranking of 10 documents
TIMED = 300  # questions


class BenchmarkFailed(AdaptRAGError):
    code = "benchmark_failed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", type=Path, required=True, help="a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv"
    )
    parser.add_argument("--questions", type=int, help="only the first N")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {retriever, recall@5, ndcg@10, mrr@10, questions, index_seconds, memory_bytes, p50_ms, p95_ms, search_p50_ms}."""
    dataset = options["dataset"].resolve()
    for name in ("queries.jsonl", "qrels/test.tsv"):
        if not (dataset / name).is_file():
            raise InvalidInput(f"{dataset} has no {name}: it is not a BEIR folder with judgements.")
    progress(0.02, "indexing in a site of its own")
    with tempfile.TemporaryDirectory(prefix="adaptrag-retrieval-") as folder:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTRAG_", "DATABASE_URL"))}
        environment = {
            **inherited,
            "ADAPTRAG_DATA_DIR": folder,
            "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
            "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        }
        command = [sys.executable, "-m", "benchmarks.retrieval", str(dataset), str(options.get("questions") or 0)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"The measurement failed:\n{done.stderr[-3000:]}")
    progress(1, "")
    return json.loads(done.stdout.splitlines()[-1])


# Metrics ----------------------------------------------------------------------------------------------------------------


def recall(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents among the first k."""
    return sum(document in relevant for document in ranking[:k]) / len(relevant)


def ndcg(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Discounted gain over that of the ideal ranking (Järvelin & Kekäläinen, 2002; gains linear in the judgement)."""
    gained = sum(relevant.get(document, 0) / math.log2(rank + 2) for rank, document in enumerate(ranking[:k]))
    ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(relevant.values(), reverse=True)[:k]))
    return gained / ideal


def reciprocal_rank(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    return next((1 / (rank + 1) for rank, document in enumerate(ranking[:k]) if document in relevant), 0.0)


def quality(rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Means over the questions. rankings: documents by question, best first."""
    measures = {"recall@5": (recall, 5), "ndcg@10": (ndcg, 10), "mrr@10": (reciprocal_rank, 10)}
    return {
        name: sum(measure(ranking, qrels[question], k) for question, ranking in rankings.items()) / len(rankings)
        for name, (measure, k) in measures.items()
    }


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


# The measured process ---------------------------------------------------------------------------------------------------


def measure(dataset: Path, most: int) -> list[dict[str, Any]]:
    """Index the dataset into this process's site and measure each retriever."""
    from django.core.management import call_command

    from agents import services
    from agents.models import Document
    from agents.retrieval.embedding import embedder
    from agents.retrieval.search import METHODS, retrieve

    call_command("migrate", verbosity=0)
    questions, qrels = read_questions(dataset)
    questions = dict(list(questions.items())[: most or None])
    embedder()  # converted once a machine, which is no part of indexing
    begun = time.perf_counter()
    collection = services.collection_get_or_create("benchmark")
    services.corpus_add(collection=collection, folder=dataset, progress=lambda *_: None)
    services.collection_index(collection)
    indexed = time.perf_counter() - begun
    names = {pk: data["beir_id"] for pk, data in Document.objects.values_list("id", "metadata")}

    def ranking(method: str, question: str) -> list[str]:
        found = retrieve(collection, question, DEEP, method)
        return list(dict.fromkeys(names[passage.document_id] for passage in found))

    rows = []
    for method in METHODS:
        before = _resident()
        rankings = {key: ranking(method, text) for key, text in questions.items()}
        row = {"retriever": method, **quality(rankings, qrels), "questions": len(questions), "index_seconds": indexed}
        row["memory_bytes"] = _resident() - before
        timed = [f"{text} " for text in list(questions.values())[:TIMED]]  # not embedded yet
        row |= _percentiles(_times(lambda text, method=method: retrieve(collection, text, 10, method), timed))
        again = _percentiles(_times(lambda text, method=method: retrieve(collection, text, 10, method), timed))
        rows.append({**row, "search_p50_ms": again["p50_ms"], "search_p95_ms": again["p95_ms"]})
    return [*rows, _rank_bm25(dataset, questions, qrels)]


def _rank_bm25(dataset: Path, questions: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """rank-bm25 as its README uses it: whole documents, words in lower case."""
    from rank_bm25 import BM25Okapi

    from agents.ingestion.beir import corpus_file, read_corpus

    before, begun = _resident(), time.perf_counter()
    documents = list(read_corpus(corpus_file(dataset)))
    index = BM25Okapi([f"{one.title} {one.text}".lower().split() for one in documents])
    seconds, ids = time.perf_counter() - begun, [one.id for one in documents]
    rankings = {key: index.get_top_n(text.lower().split(), ids, 10) for key, text in questions.items()}
    row = {"retriever": "rank-bm25 alone", **quality(rankings, qrels), "questions": len(questions), "index_seconds": seconds}
    times = _percentiles(_times(lambda text: index.get_top_n(text.lower().split(), ids, 10), list(questions.values())[:TIMED]))
    return {
        **row, "memory_bytes": _resident() - before, **times,
        "search_p50_ms": times["p50_ms"], "search_p95_ms": times["p95_ms"],
    }  # fmt: skip


def _times(search: Callable[[str], Any], texts: Iterable[str]) -> list[float]:
    times = []
    for text in texts:
        begun = time.perf_counter()
        search(text)
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50_ms": ordered[len(ordered) // 2], "p95_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]}


def _resident() -> int:
    """Bytes of memory that this process holds now (Linux), else its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
