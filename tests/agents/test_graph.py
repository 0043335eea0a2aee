"""Entities and relations by rules, the graph that they make, and the passages that it leads to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.conf import settings

from agents import services
from agents.errors import ChatModelUnavailable, IndexNotReady
from agents.llm.base import Message
from agents.retrieval.entities import entities, extract, key, named, title_keys
from agents.retrieval.graph import OpenGraph, read_extractions
from agents.retrieval.graph_model import extract_by_model
from agents.retrieval.search import retrieve
from tests.agents.doubles import DOWN, Replies

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = {
    "Skarv Light": "Skarv Light is a lighthouse. Its keeper is Marta Olsen. It was lit in 1901 and turns in twelve seconds.",
    "Marta Olsen": "Marta Olsen is a sailor from Bergen. Before that she worked on a trawler and studied music.",
    "Bergen": "Bergen is a city with a fish market, a university and much rain in every month of the year.",
    "Oslo": "Oslo is a city with an opera house and many museums. Trams run there day and night.",
    **{f"Buoy {number}": f"Buoy {number} is painted red and is looked after in spring." for number in range(12)},
}


@pytest.fixture
def collection():
    collection = services.collection_get_or_create("coast")
    for title, text in PAGES.items():
        services.document_add(collection=collection, name=f"{title}.md", data=f"# {title}\n\n{text}".encode(), index=False)
    services.collection_index(collection)
    services.derived_refresh(collection, kinds=["graph"])
    collection.refresh_from_db()
    return collection


def opened(collection):
    return read_extractions(Path(settings.DATA_DIR) / collection.derived.get(kind="graph").path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The keeper of Skarv Light is Marta Olsen.", ["Skarv Light", "Marta Olsen"]),
        ("She studied at the University of Oslo in 1998.", ["University of Oslo"]),
        ("SARS-CoV-2 is measured by `top_k` and ADAPTRAG_DATA_DIR.", ["SARS-CoV-2", "top_k", "ADAPTRAG_DATA_DIR"]),
        ("nothing here is a name", []),
        ("漢字 🚢 ‮ \x00", []),
    ],
)
def test_names_are_found_by_how_they_are_written(text, names):
    assert [name for _, _, name in entities(text)] == names


def test_spellings_of_one_thing_share_a_key():
    assert key("The Marta Olsen's") == key("marta  olsen") == "marta olsen"
    assert title_keys("Hoosick, New York") == ("hoosick, new york", "hoosick")
    assert title_keys("Mercury (planet)")[1] == "mercury"


def test_a_relation_is_the_words_between_two_names():
    relations = extract("Skarv Light", PAGES["Skarv Light"]).relations
    assert ("skarv light", "its keeper is", "marta olsen") in relations


def test_a_question_names_what_the_graph_knows():
    known = {"marta olsen", "olsen", "light", "top_k", "oslo"}
    assert named("Where did Marta Olsen keep a light, in Oslo or by top_k?", known) == ["marta olsen", "oslo", "top_k"]


def test_a_link_leads_to_the_document_that_the_question_does_not_name(collection):
    found = {passage.document: passage for passage in retrieve(collection, "the keeper of Skarv Light", 3, "graph")}
    second = found["Marta Olsen"]
    assert second.via == "Skarv Light — its keeper is → Marta Olsen"
    assert second.retriever == "graph"
    assert second.score == pytest.approx(second.scores["hybrid"] + second.scores["links"])
    assert [passage.rank for passage in found.values()] == [1, 2, 3]


def test_a_path_between_two_things_is_shown(collection):
    found = {passage.document: passage for passage in retrieve(collection, "How is Skarv Light related to Bergen?", 5, "graph")}
    paths = [passage.via for passage in found.values() if ";" in passage.via]
    assert all("Marta Olsen" in via and "Bergen" in via for via in paths)
    assert {"Skarv Light", "Marta Olsen", "Bergen"} <= set(found)


def test_the_graph_follows_documents(collection):
    before = opened(collection)
    services.document_delete(collection.documents.get(source="Marta Olsen.md"))
    assert "Marta Olsen" not in {one.document for one in retrieve(collection, "the keeper of Skarv Light", 20, "graph")}
    services.document_add(collection=collection, name="Hansen.md", data=b"# Hansen\n\nHansen repairs the Skarv Light.")
    services.derived_refresh(collection)
    after = opened(collection)
    assert len(set(before) - set(after)) == 1
    assert len(set(after) - set(before)) == 1
    assert "Hansen" in {one.document for one in retrieve(collection, "who repairs Skarv Light?", 3, "graph")}


def test_only_new_passages_are_read_again(collection, monkeypatch):
    from agents.services import derived

    read: list[str] = []
    monkeypatch.setattr(derived, "extract", lambda title, text: read.append(title) or extract(title, text))
    services.document_add(collection=collection, name="Hansen.md", data=b"# Hansen\n\nHansen repairs the Skarv Light.")
    services.derived_refresh(collection)
    assert read == ["Hansen"]


def test_the_file_is_plain_json(collection):
    path = Path(settings.DATA_DIR) / collection.derived.get(kind="graph").path
    assert [file.name for file in path.iterdir()] == ["graph.json"]
    assert json.loads((path / "graph.json").read_text())["form"] == 1


def test_a_collection_without_graph_says_so(collection):
    collection.derived.all().delete()
    with pytest.raises(IndexNotReady, match="'graph'"):
        retrieve(collection, "Skarv", 3, "graph")


def test_a_graph_of_nothing_links_nothing():
    assert OpenGraph({}).links("Skarv Light and Bergen", []) == {}


class TestModel:
    def test_its_facts_come_first_and_the_rules_stay(self):
        chat = Replies(
            "Marta Olsen | keeps | Skarv Light\n- Skarv Light | lit in | 1901\nnonsense\na | b\n | x | y\nOslo | is | oslo"
        )
        one = extract_by_model(chat, "Skarv Light", PAGES["Skarv Light"])
        assert one.relations[0] == ("marta olsen", "keeps", "skarv light")
        assert ("skarv light", "its keeper is", "marta olsen") in one.relations
        assert not any(subject == thing for subject, _, thing in one.relations)
        assert set(one.names) >= {thing for subject, _, thing in one.relations} | {subject for subject, _, _ in one.relations}
        assert isinstance(chat.prompts[0][0], Message)

    def test_a_model_that_is_down_fails_the_job_and_leaves_the_graph(self, collection, monkeypatch):
        from agents.services import derived

        before = collection.derived.get(kind="graph").path
        monkeypatch.setattr(settings, "ADAPTRAG_GRAPH_MODEL", "reader")
        monkeypatch.setattr(derived, "chat_model", lambda *_: Replies(DOWN))
        with pytest.raises(ChatModelUnavailable):
            services.derived_refresh(collection, kinds=["graph"])
        assert collection.derived.get(kind="graph").path == before
        assert retrieve(collection, "the keeper of Skarv Light", 3, "graph")
