"""Retrieval: quality and time of BM25, dense, hybrid and each strategy's search, beside rank-bm25 and LlamaIndex.

The folder is ingested into a throw-away site by the product's own services. Quality counts documents: the ranking of passages,
each document at its best passage, judged by pytrec-eval. Times are of `agents.retrieval.search.retrieve` for 10 passages, with
the embedding of the question (p50_ms, p95_ms) and without it (search_p50_ms, search_p95_ms). Strategies search with a model
that says "I don't know.": hyde_rag, agentic_rag and corrective_rag can do better with one that writes. memory_bytes of our own
rows is what opening the index and 50 questions add to a process of their own that has loaded the encoder. `--scale N` measures
N made-up passages with the statistics of the folder's instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.errors import AdaptRAGError, InvalidInput

ROOT = Path(__file__).resolve().parent.parent
# All but lora_rag and quantized_rag, which search as hybrid_rag does and need a training.
STRATEGIES = (
    "naive_rag,hybrid_rag,agentic_rag,sentence_window_rag,parent_child_rag,hyde_rag,corrective_rag,table_rag,graph_rag,"
    "multimodal_rag"
)


class BenchmarkFailed(AdaptRAGError):
    code = "benchmark_failed"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", type=Path, required=True, help="a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv"
    )
    parser.add_argument("--questions", type=int, default=0, help="only the first N")
    parser.add_argument("--scale", type=int, default=0, help="N made-up passages with the words and vectors of the folder's")
    parser.add_argument(
        "--strategies", default=STRATEGIES, help="names, separated by commas; the model of each writes nothing of use"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors between runs; index_seconds then lacks embedding")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers/bin/python", help="Python with LlamaIndex (make bench-peers)"
    )


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {retriever, recall@5, ndcg@10, mrr@10, questions, index_seconds, memory_bytes, p50_ms, p95_ms, search_p50_ms}."""
    dataset = options["dataset"].resolve()
    for name in ("queries.jsonl", "qrels/test.tsv"):
        if not (dataset / name).is_file():
            raise InvalidInput(f"{dataset} has no {name}: it is not a BEIR folder with judgements.")
    if options["scale"] < 0:
        raise InvalidInput(f"--scale is {options['scale']}; give a number of passages.")
    progress(0.02, "indexing in a site of its own")
    with tempfile.TemporaryDirectory(prefix="adaptrag-retrieval-") as folder:
        if options["cache"]:
            options["cache"].mkdir(parents=True, exist_ok=True)
            (Path(folder) / "embeddings").symlink_to(options["cache"].resolve())
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTRAG_", "DATABASE_URL"))}
        environment = {
            **inherited,
            "ADAPTRAG_DATA_DIR": folder,
            "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
            "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        }
        peers = options["peers"].absolute()
        wanted = {
            "dataset": str(dataset),
            "questions": options["questions"],
            "strategies": [name for name in options["strategies"].split(",") if name],
            "scale": options["scale"],
            "peers": str(peers) if peers.is_file() else "",
        }
        command = [sys.executable, "-m", "benchmarks.retrieval_site", json.dumps(wanted)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"The measurement failed:\n{done.stderr[-3000:]}")
    progress(1, "")
    return json.loads(done.stdout.splitlines()[-1])
