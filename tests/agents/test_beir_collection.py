"""A BEIR folder as a collection: named after it, in step with its passages, made once."""

import json

import pytest

from adaptrag.common.errors import InvalidInput
from agents.services import agent_answer, agent_register, beir_collection, collection_get_or_create, document_add
from agents.services.corpus import corpus_add
from agents.strategies.base import AgentRequest

pytestmark = pytest.mark.django_db


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    rows = [{"_id": name, "title": name.title(), "text": text} for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def held(collection):
    return dict(collection.documents.values_list("source", "chunks__text"))


def test_a_folder_becomes_a_collection_of_its_name(tmp_path):
    collection = beir_collection(write(tmp_path / "Sea Marks", a="Lights blink at night.", b="Bells ring in fog."))
    assert collection.name == "sea-marks"
    assert held(collection) == {"Sea Marks/a": "Lights blink at night.", "Sea Marks/b": "Bells ring in fog."}
    assert collection.current_build.chunks == 2


def test_an_unchanged_folder_is_not_read_in_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "sea", a="Lights blink at night.")
    first = beir_collection(folder)
    monkeypatch.setattr("agents.services.corpus.corpus_add", lambda **_: pytest.fail("cut again"))
    again = beir_collection(folder)
    assert (again.pk, again.current_build_id) == (first.pk, first.current_build_id)


def test_changed_and_removed_passages_follow_the_folder(tmp_path):
    folder = write(tmp_path / "sea", a="Lights blink at night.", b="Bells ring in fog.")
    beir_collection(folder)
    collection = beir_collection(write(folder, a="Lights blink by day.", c="Buoys float."))
    assert held(collection) == {"sea/a": "Lights blink by day.", "sea/c": "Buoys float."}
    assert collection.current_build.chunks == 2


def test_other_documents_of_the_collection_stay(tmp_path):
    folder = write(tmp_path / "sea", a="Lights blink at night.")
    document_add(collection=beir_collection(folder), name="own.md", data=b"My own notes.")
    assert held(beir_collection(folder)) == {"sea/a": "Lights blink at night.", "own.md": "My own notes."}


def test_an_ingested_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    folder = write(tmp_path / "sea", a="Lights blink at night.")
    corpus_add(collection=collection_get_or_create("sea"), folder=folder, progress=lambda *_: None)
    monkeypatch.setattr("agents.services.corpus.corpus_add", lambda **_: pytest.fail("cut again"))
    assert beir_collection(folder).current_build.chunks == 1


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"no corpus\.jsonl"):
        beir_collection(tmp_path)


def test_what_live_agents_search_is_there_when_a_folder_is(tmp_path):
    needs = ("sentence_window_rag", "parent_child_rag", "graph_rag")
    agents = [agent_register(name=name, strategy=name, chat_backend="scripted") for name in needs]
    collection = beir_collection(write(tmp_path / "sea", a="Lights blink at night.", b="Bells ring in fog."))
    for agent in agents:
        answer = agent_answer(agent, AgentRequest(question="When do lights blink?", collection=collection))
        assert "Lights blink at night." in answer.passages[0].text
    beir_collection(write(tmp_path / "sea", a="Lights blink by day."))
    assert set(collection.derived.values_list("content_version", flat=True)) == {
        type(collection).objects.get(pk=collection.pk).content_version
    }
