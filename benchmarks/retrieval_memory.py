"""Memory of one retriever, in a process of its own: in one process each row would find what the rows before it mapped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

ASKED = 50  # questions, after which the pages that searches touch are there


def memory_of(collection: str, retriever: str, questions: Mapping[str, str]) -> int:
    """Bytes that opening the index and ASKED questions add to a process with the encoder and the libraries loaded."""
    wanted = {"collection": collection, "retriever": retriever, "questions": list(islice(questions.values(), ASKED))}
    command = [sys.executable, "-m", "benchmarks.retrieval_memory"]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The memory of {retriever} could not be measured:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(wanted: dict[str, Any]) -> int:
    import bm25s  # noqa: F401 loaded before the first reading
    import faiss  # noqa: F401
    import networkx  # noqa: F401

    from agents.models import Collection
    from agents.retrieval.embedding import embedder
    from agents.retrieval.search import METHODS, retrieve
    from benchmarks.retrieval_site import resident, strategy_search

    collection, retriever = Collection.objects.get(name=wanted["collection"]), wanted["retriever"]
    embedder().embed(["The encoder is loaded and has run once."])
    before = resident()
    if retriever in METHODS:
        for question in wanted["questions"]:
            retrieve(collection, question, 10, retriever)
    else:
        search = strategy_search(collection, retriever)
        for question in wanted["questions"]:
            search(question, 10)
    return resident() - before


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps(main(json.loads(sys.stdin.read()))))
