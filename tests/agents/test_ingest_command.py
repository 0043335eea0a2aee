"""`manage.py ingest` as an operator types it."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from agents.models import Collection, Document, IndexBuild
from agents.retrieval.search import retrieve
from tests.agents import sample_files

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def own_uploads(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "uploads"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "handbook"
    (folder / "weather").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "index.md").write_text("# Handbook\n\nThe handbook of the weather station.")
    (folder / "weather" / "rain.txt").write_text("Umbrellas keep people dry.")
    (folder / "weather" / "wind.pdf").write_bytes(sample_files.pdf("Turbines make electricity."))
    (folder / "weather" / "table.ods").write_text("a,b")
    (folder / ".hidden" / "secret.txt").write_text("Hidden.")
    return folder


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    rows = [{"_id": f"d{number}", "title": f"Subject{number}", "text": f"It is about topic{number}."} for number in range(450)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ingest(*words, code: int = 0) -> tuple[dict, str]:
    """(the JSON object, what went to stderr)."""
    out, err = io.StringIO(), io.StringIO()
    if code:
        with pytest.raises(SystemExit) as stop:
            call_command("ingest", *map(str, words), "--json", stdout=out, stderr=err)
        assert stop.value.code == code
    else:
        call_command("ingest", *map(str, words), "--json", stdout=out, stderr=err)
    return json.loads(out.getvalue() or "{}"), err.getvalue()


def test_a_folder_is_read_with_all_that_lies_below(folder):
    result, err = ingest(folder)
    assert {key: result[key] for key in ("collection", "added", "documents", "chunks", "rejected")} == {
        "collection": "default", "added": 3, "documents": 3, "chunks": 3, "rejected": [],
    }  # fmt: skip
    assert set(Document.objects.values_list("source", flat=True)) == {
        "handbook/index.md", "handbook/weather/rain.txt", "handbook/weather/wind.pdf",
    }  # fmt: skip
    assert "table.ods" in err
    assert "Hidden" not in err
    assert IndexBuild.objects.count() == 1
    assert retrieve(Collection.objects.get(), "umbrellas", 1, "bm25")[0].document == "rain"


def test_again_changes_nothing_and_a_changed_file_is_replaced(folder):
    ingest(folder)
    again, _ = ingest(folder)
    assert (again["added"], again["replaced"], again["unchanged"]) == (0, 0, 3)
    assert IndexBuild.objects.count() == 1
    (folder / "weather" / "rain.txt").write_text("Galoshes keep feet dry.")
    changed, _ = ingest(folder)
    assert (changed["added"], changed["replaced"], changed["unchanged"]) == (0, 1, 2)
    assert retrieve(Collection.objects.get(), "umbrellas", 1, "bm25") == []


def test_a_file_alone_and_in_its_folder_is_one_document(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    ingest("handbook")
    result, _ = ingest("handbook/weather/rain.txt")
    assert (result["unchanged"], result["documents"]) == (1, 3)


def test_a_bad_file_is_reported_and_the_rest_goes_on(folder):
    (folder / "cut.pdf").write_bytes(sample_files.pdf("Text.")[:-100])
    result, err = ingest(folder, code=1)
    assert (result["added"], [one["source"] for one in result["rejected"]]) == (3, ["handbook/cut.pdf"])
    assert "truncated" in result["rejected"][0]["error"]
    assert "truncated" in err
    assert retrieve(Collection.objects.get(), "umbrellas", 1, "bm25")


def test_two_files_with_one_source_are_told_apart(folder, tmp_path):
    other = tmp_path / "other" / "weather"
    other.mkdir(parents=True)
    (other / "rain.txt").write_text("Another rain.")
    result, _ = ingest(folder / "weather" / "rain.txt", other / "rain.txt", code=1)
    assert (result["added"], len(result["rejected"])) == (1, 1)


def test_a_beir_folder_keeps_its_ids(beir):
    result, _ = ingest(beir, "--collection", "tiny")
    assert (result["added"], result["documents"], result["collection"]) == (450, 450, "tiny")
    document = Document.objects.get(source="tiny/d7")
    assert document.metadata["beir_id"] == "d7"
    assert document.state == Document.State.READY
    (passage,) = retrieve(Collection.objects.get(), "topic7", 1, "bm25")
    assert (passage.document, passage.text) == ("Subject7", "It is about topic7.")
    assert retrieve(Collection.objects.get(), "Subject30", 1, "bm25")[0].document == "Subject30"
    again, _ = ingest(beir, "--collection", "tiny")
    assert (again["added"], again["unchanged"], again["build"]) == (0, 450, result["build"])


def test_a_compressed_beir_folder(beir):
    corpus = beir / "corpus.jsonl"
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()[:2000].rpartition(b"\n")[0]))
    corpus.unlink()
    assert ingest(beir)[0]["added"] > 10


def test_a_broken_beir_line_is_named_and_what_stands_before_it_stays(beir):
    corpus = beir / "corpus.jsonl"
    lines = corpus.read_text().splitlines()
    lines[410] = "{broken"
    corpus.write_text("\n".join(lines))
    result, _ = ingest(beir, code=1)
    assert "line 411" in result["rejected"][0]["error"]
    assert result["documents"] == 400
    lines[410] = json.dumps({"_id": "new", "text": "Mended."})
    corpus.write_text("\n".join(lines))
    assert ingest(beir)[0]["added"] == 50


def test_nothing_to_index_is_no_failure(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    result, _ = ingest(empty)
    assert (result["documents"], result["chunks"], result["build"]) == (0, 0, None)


def test_wrong_usage():
    assert "doesn't exist" in ingest("/nowhere/at/all", code=2)[1]
    with pytest.raises(CommandError):
        call_command("ingest")
    assert "lower-case" in ingest(__file__, "--collection", "Über", code=2)[1]


def test_words_without_json(folder):
    out = io.StringIO()
    call_command("ingest", str(folder), stdout=out, stderr=io.StringIO())
    assert out.getvalue().strip() == (
        "default: 3 added, 0 replaced, 0 unchanged, 0 rejected. It holds 3 documents in 3 passages."
    )
