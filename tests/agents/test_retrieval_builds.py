"""Index builds: what is embedded once, what survives an interruption, what other processes see."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from django.conf import settings as django_settings

from agents import services
from agents.models import Collection, Document, IndexBuild
from agents.retrieval import embedding
from agents.retrieval.search import retrieve
from agents.retrieval.vectors import VectorCache, text_hashes
from tests.ops.site import Site

NOTES = [f"Note number {number} is about subject{number} and nothing else." for number in range(40)]


@pytest.fixture
def collection(db) -> Collection:
    return services.collection_get_or_create("notes")


def add(collection: Collection, *numbers: int) -> None:
    for number in numbers:
        services.document_add(collection=collection, name=f"{number}.txt", data=NOTES[number].encode(), index=False)


@pytest.fixture
def embedded(monkeypatch):
    """The texts that were embedded, in order; nothing is known from earlier tests."""
    shutil.rmtree(Path(django_settings.DATA_DIR) / "embeddings", ignore_errors=True)
    model, texts = embedding.embedder(), []
    embed = model.embed

    def note(batch):
        texts.extend(batch)
        return embed(batch)

    monkeypatch.setattr(model, "embed", note)
    return texts


def test_each_text_is_embedded_once(collection, embedded):
    add(collection, 0, 1)
    services.document_add(collection=collection, name="0.txt", data=NOTES[0].encode(), source="elsewhere/0.txt", index=False)
    services.collection_index(collection)
    assert len(embedded) == 2
    add(collection, 2)
    services.collection_index(collection)
    assert len(embedded) == 3
    services.collection_index(collection, force=True)
    assert len(embedded) == 6


def test_an_interrupted_build_goes_on_where_it_was_and_the_old_index_serves(collection, embedded, monkeypatch, settings):
    add(collection, 0)
    first = services.collection_index(collection)
    add(collection, *range(1, 40))
    from agents.retrieval import vectors

    monkeypatch.setattr(vectors, "BATCHES_A_COMMIT", 1)
    settings.ADAPTRAG_EMBEDDING_THREADS = 1

    def stop(fraction: float, message: str) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    embedded.clear()
    with pytest.raises(KeyboardInterrupt):
        services.collection_index(collection, stop)
    before = len(embedded)
    assert 0 < before < 39
    failed = IndexBuild.objects.get(state=IndexBuild.State.FAILED)
    assert "KeyboardInterrupt" in failed.error
    collection.refresh_from_db()
    assert collection.current_build == first
    assert retrieve(collection, "subject0", 1, "bm25")[0].document == "0"
    services.collection_index(collection)
    # At most the batch that was under way is embedded again.
    assert 39 <= len(embedded) <= 39 + 16
    assert retrieve(collection, "subject39", 1, "bm25")[0].document == "39"


def test_the_cache_of_vectors_is_bounded_and_the_oldest_go_first(tmp_path):
    cache, hashes = VectorCache(tmp_path / "model.sqlite3", 4), text_hashes([str(number) for number in range(2000)])
    values = np.arange(8000, dtype=np.float32).reshape(-1, 4)
    for begin in range(0, 2000, 500):
        cache.add(hashes[begin : begin + 500], values[begin : begin + 500])
    found, vectors = cache.find(hashes[::-1])
    assert found.all()
    np.testing.assert_array_equal(vectors, values[::-1])
    full = (tmp_path / "model.sqlite3").stat().st_size
    cache.trim(40_000)
    found, vectors = cache.find(hashes)
    kept = int(found.sum())
    assert 0 < kept < 400
    assert found[-kept:].all()
    np.testing.assert_array_equal(vectors, values[-kept:])
    assert (tmp_path / "model.sqlite3").stat().st_size < full / 2


def test_another_collection_needs_no_embedding_of_the_same_text(collection, embedded):
    other = services.collection_get_or_create("other")
    for name in ("shared", "shared too"):
        services.document_add(collection=collection, name=f"{name}.txt", data=b"Said in two places.", index=False)
        services.document_add(collection=other, name=f"{name}.txt", data=b"Said in two places.", index=False)
    services.document_add(collection=other, name="alone.txt", data=b"Said once.", index=False)
    services.collection_index(collection)
    assert len(embedded) == 2
    services.collection_index(other)
    assert len(embedded) == 3


def test_what_changes_while_a_build_is_made_is_right_afterwards(collection):
    add(collection, 0, 1, 2)
    done = []

    def meddle(fraction: float, message: str) -> None:
        if not done:
            done.append(True)
            Document.objects.get(source="0.txt").delete()
            services.document_add(collection=collection, name="1.txt", data=NOTES[11].encode(), index=False)
            add(collection, 3)

    services.collection_index(collection, meddle)
    states = dict(Document.objects.values_list("source", "state"))
    assert states == {"1.txt": "pending", "2.txt": "ready", "3.txt": "pending"}
    assert retrieve(collection, "subject0", 5, "bm25") == []
    assert retrieve(collection, "subject2", 1, "bm25")[0].document == "2"
    services.collection_index(collection)
    assert retrieve(collection, "subject11", 1, "bm25")[0].document == "1"
    assert retrieve(collection, "subject1", 1, "bm25") == []
    assert set(Document.objects.values_list("state", flat=True)) == {"ready"}


def test_old_builds_go_and_their_rows_stay(collection, settings):
    folder = Path(settings.DATA_DIR) / "indexes" / str(collection.pk)
    for number in range(4):
        add(collection, number)
        services.collection_index(collection)
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    assert IndexBuild.objects.filter(state=IndexBuild.State.READY).count() == 4


# Several processes --------------------------------------------------------------------------------------------------

ASK = """
import sys
from agents.models import Collection
from agents.retrieval.search import retrieve
from agents.retrieval.vectors import VectorCache, text_hashes
collection = Collection.objects.get(name="default")
for line in sys.stdin:
    found = retrieve(collection, line.strip(), 1, "bm25")
    print(found[0].document if found else "-", "faiss" in sys.modules or "onnxruntime" in sys.modules, flush=True)
"""


@pytest.fixture
def site(tmp_path) -> Site:
    site = Site(tmp_path / "var", ADAPTRAG_MODELS_DIR=str(django_settings.ADAPTRAG_MODELS_DIR))
    assert site.manage("migrate", "-v", "0").returncode == 0
    return site


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number, text in enumerate(NOTES):
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.mark.slow
def test_another_process_sees_a_new_index_and_needs_no_model_for_bm25(site, notes):
    site.must("ingest", str(notes / "0.txt"))
    asker = site.start(ASK)

    def ask(question: str) -> str:
        asker.stdin.write(question + "\n")
        asker.stdin.flush()
        return asker.stdout.readline().strip()

    try:
        assert ask("subject0") == "0 False"
        assert ask("subject1") == "- False"
        site.must("ingest", str(notes / "1.txt"))
        assert ask("subject1") == "1 False"
        site.must("ingest", str(notes / "2.txt"))
        site.must("ingest", str(notes / "3.txt"))
        assert ask("subject3") == "3 False"
        assert ask("subject0") == "0 False"
    finally:
        asker.kill()
        asker.wait()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["embedding", "publishing"])
def test_a_build_that_is_killed_leaves_the_old_index_and_the_next_one_goes_on(site, notes, moment):
    site.must("ingest", str(notes / "0.txt"))
    at = {
        "embedding": "from agents.retrieval import build as module; name = 'write_bm25'",
        "publishing": "from agents.services import collections as module; name = '_publish'",
    }[moment]
    script = f"""
from django.core.management import call_command
{at}
import time
def hang(*_, **__):
    print("there", flush=True)
    time.sleep(600)
setattr(module, name, hang)
call_command("ingest", {str(notes)!r})
"""
    builder = site.start(script)
    assert builder.stdout.readline().strip() == "there"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert site.rows("SELECT state FROM agents_indexbuild ORDER BY id") == [("ready",), ("building",)]
    asker = site.start(ASK)
    assert asker.communicate("subject0\nsubject5\n", timeout=60)[0].split("\n")[:2] == ["0 False", "- False"]
    result = site.must("ingest", str(notes))
    assert (result["unchanged"], result["documents"]) == (40, 40)
    assert site.rows("SELECT state FROM agents_indexbuild ORDER BY id") == [("ready",), ("failed",), ("ready",)]
    assert site.rows("SELECT DISTINCT state FROM agents_document") == [("ready",)]
    folders = [path.name for path in (site.folder / "indexes" / "1").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert not [name for name in folders if name.startswith(".")]


@pytest.mark.slow
def test_several_processes_that_add_at_once_lose_nothing(site, notes):
    script = f"""
import sys
from pathlib import Path
from agents import services
collection = services.collection_get_or_create("default")
for number in map(int, sys.stdin.readline().split()):
    path = Path({str(notes)!r}) / f"{{number}}.txt"
    services.document_add(collection=collection, name=path.name, data=path.read_bytes())
print("done")
"""
    adders = [site.start(script) for _ in range(4)]
    for number, adder in enumerate(adders):
        adder.stdin.write(" ".join(str(other) for other in range(number, 20, 4)) + "\n")
        adder.stdin.close()
    for adder in adders:
        assert adder.stdout.read().strip() == "done"
        assert adder.wait() == 0
    asker = site.start(ASK)
    answers = asker.communicate("".join(f"subject{number}\n" for number in range(20)), timeout=60)[0].split("\n")
    assert answers[:20] == [f"{number} False" for number in range(20)]
    assert site.rows("SELECT count(*) FROM agents_indexbuild WHERE state <> 'ready'") == [(0,)]
