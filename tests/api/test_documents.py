"""GET /api/agents, /api/collections; documents in, out and away."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from agents.models import Collection, Document
from agents.services import agent_set_enabled
from tests.api.conftest import TEXT


def upload(api, name="harbour.md", data=TEXT, **fields):
    return api.post("/api/documents", {"file": SimpleUploadedFile(name, data), **fields})


def test_an_uploaded_document_can_be_asked_about_listed_and_deleted(operator_api, api, agents):
    response = upload(operator_api, "ships.md", b"# Ships\n\nThe tug is called Borealis.\n", source="fleet/ships")
    assert response.status_code == 201, response.content
    body = response.json()
    document = body["document"]
    assert (body["created"], body["changed"], document["source"], document["collection"]) == (
        True,
        True,
        "fleet/ships",
        "default",
    )
    assert document["chunks"] >= 1
    listed = api.get("/api/documents", {"collection": "default"}).json()
    assert listed["count"] == 2
    assert listed["results"][0]["id"] == document["id"]
    answer = api.send("/api/query/one", {"question": "What is the tug called?"}).json()
    assert "Borealis" in answer["sources"][0]["text"]
    assert operator_api.delete(f"/api/documents/{document['id']}").status_code == 204
    assert api.get(f"/api/documents/{document['id']}").json()["error"]["code"] == "unknown_document"
    again = api.send("/api/query/one", {"question": "What is the tug called?"}).json()
    assert not any("Borealis" in source["text"] for source in again["sources"])


def test_the_same_file_again_changes_nothing_and_another_replaces_it(operator_api):
    first = upload(operator_api)
    again = upload(operator_api)
    assert (again.status_code, again.json()["changed"]) == (200, False)
    other = upload(operator_api, data=b"# Harbour\n\nIt was sold.\n")
    assert (other.status_code, other.json()["created"], other.json()["changed"]) == (200, False, True)
    assert other.json()["document"]["id"] == first.json()["document"]["id"]
    assert Document.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.md", b""),
        ("cut.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog"),
        ("image.pdf", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("bad.docx", b"PK\x03\x04 this is no archive"),
        ("text.md", "Überraschung".encode("utf-16")[:-1]),
        ("program.exe", b"MZ" + bytes(100)),
    ],
)
def test_a_file_that_can_not_become_a_document_is_refused_and_leaves_nothing(operator_api, name, data):
    response = upload(operator_api, name, data)
    assert response.status_code in (400, 422), response.content
    assert response.json()["error"]["message"]
    assert not Document.objects.exists()
    assert not Collection.objects.exists()


def test_an_upload_needs_a_file_in_a_form(operator_api, library):
    assert operator_api.post("/api/documents", {"collection": "default"}).status_code == 400
    assert operator_api.send("/api/documents", {"file": "x"}).status_code == 415
    assert upload(operator_api, collection="Not A Name").status_code == 400


def test_a_file_that_is_too_large_is_refused(operator_api, settings):
    settings.ADAPTRAG_MAX_UPLOAD_BYTES = 50
    response = upload(operator_api)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("query", [{"state": "lost"}, {"page": "0"}, {"page": "x"}, {"colection": "typo"}])
def test_a_list_that_is_not_there_is_refused(api, library, query):
    assert api.get("/api/documents", query).status_code in (400, 404)


def test_agents_are_listed_with_what_they_are_and_whether_they_answer(api, agents):
    agent_set_enabled(agents[1], False)
    rows = api.get("/api/agents").json()["agents"]
    assert [(row["name"], row["revision"], row["strategy"], row["enabled"]) for row in rows] == [
        ("one", 1, "naive_rag", True),
        ("two", 1, "naive_rag", False),
    ]
    assert "answer" not in str(rows), "options of the chat model are the operator's"


def test_collections_tell_what_is_searchable(api, library):
    row = api.get("/api/collections").json()["collections"][0]
    assert (row["name"], row["documents"]) == ("default", 1)
    assert row["index"]["chunks"] >= 1
