"""Uploads, collections and index builds in the admin."""

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from adaptrag.common.models import Job
from agents.errors import NothingIngested
from agents.models import Collection, Document
from agents.retrieval.search import retrieve

pytestmark = pytest.mark.django_db
ADD = "/admin/agents/document/add/"


def file(name, data):
    return SimpleUploadedFile(name, data)


def upload(client, *files, collection="default"):
    return client.post(ADD, {"collection": collection, "files": list(files)}, follow=True)


def test_several_files_are_taken_in_at_once_and_searchable(operator_client):
    response = upload(operator_client, file("a.md", b"# Bees\n\nBees make honey."), file("b.txt", b"Wasps make paper."))
    assert response.redirect_chain[-1][0] == reverse("admin:agents_document_changelist")
    assert "2 documents taken in." in response.content.decode()
    collection = Collection.objects.get(name="default")
    assert set(collection.documents.values_list("source", "state")) == {("a.md", "ready"), ("b.txt", "ready")}
    assert "honey" in retrieve(collection, "who makes honey", 1, "bm25")[0].text
    assert "paper" in retrieve(collection, "who makes paper", 1, "bm25")[0].text
    assert collection.builds.count() == 1
    assert LogEntry.objects.count() == 2


def test_each_bad_file_is_told_and_the_good_ones_stay(operator_client):
    response = upload(
        operator_client, file("good.md", b"# Good\n\nText."), file("empty.md", b""), file("broken.pdf", b"%PDF-1.7 broken")
    )
    assert response.status_code == 200
    results = {one.name: one for one in response.context["results"]}
    assert results["good.md"].document and not results["good.md"].error
    assert "empty" in results["empty.md"].error
    assert results["broken.pdf"].error
    page = response.content.decode()
    assert "empty.md" in page and "broken.pdf" in page
    assert Document.objects.count() == 1


def test_a_new_collection_in_which_nothing_arrived_is_not_left_behind(operator_client):
    upload(operator_client, file("empty.md", b""), collection="fresh")
    assert not Collection.objects.exists()


@pytest.mark.parametrize("name", ["Has Space", "", "../up"])
def test_a_collections_name_is_checked(operator_client, name):
    response = upload(operator_client, file("a.md", b"text"), collection=name)
    assert response.status_code == 200
    assert response.context["form"].errors["collection"]
    assert not Collection.objects.exists()


def test_the_same_file_again_changes_nothing_and_says_so(operator_client):
    upload(operator_client, file("a.md", b"# Bees\n\nBees make honey."))
    response = upload(operator_client, file("a.md", b"# Bees\n\nBees make honey."))
    assert "1 of 1 files had nothing new in them." in response.content.decode()
    assert Document.objects.count() == 1


def test_a_document_shows_its_passages(operator_client, library):
    document = library.documents.get()
    page = operator_client.get(reverse("admin:agents_document_change", args=[document.pk])).content.decode()
    assert "Marta Olsen" in page
    assert reverse("source", args=[document.chunks.first().pk]) in page


def test_deleting_takes_a_document_out_of_the_index(operator_client, library):
    document = library.documents.get()
    address = reverse("admin:agents_document_delete", args=[document.pk])
    page = operator_client.get(address).content.decode()
    assert "Passages: " in page
    assert Document.objects.exists()
    operator_client.post(address, {"post": "yes"})
    assert not Document.objects.exists()
    with pytest.raises(NothingIngested):
        retrieve(library, "lighthouse keeper", 1, "bm25")


def test_several_documents_are_deleted_after_one_question(operator_client, library):
    upload(operator_client, file("bees.md", b"# Bees\n\nBees make honey."), file("ants.md", b"# Ants\n\nAnts dig."))
    chosen = {
        "action": "delete_selected",
        "_selected_action": list(Document.objects.exclude(source="bees.md").values_list("pk", flat=True)),
    }
    changelist = reverse("admin:agents_document_changelist")
    assert "Are you sure" in operator_client.post(changelist, chosen).content.decode()
    assert Document.objects.count() == 3
    operator_client.post(changelist, chosen | {"post": "yes"})
    assert Document.objects.get().source == "bees.md"
    assert [one.document for one in retrieve(library, "honey ants lighthouse", 5, "bm25")] == ["Bees"]


def test_rebuilding_an_index_is_a_job(operator_client, library):
    address = reverse("admin:agents_collection_rebuild", args=[library.pk])
    assert "serves until then" in operator_client.get(address).content.decode()
    assert not Job.objects.exists()
    response = operator_client.post(address, {"confirmed": "yes"}, follow=True)
    job = Job.objects.get()
    assert job.title == "Index default"
    assert reverse("admin:common_job_change", args=[job.pk]) in response.content.decode()


def test_an_empty_collection_has_nothing_to_rebuild_and_says_so(operator_client, db):
    collection = Collection.objects.create(name="bare")
    address = reverse("admin:agents_collection_rebuild", args=[collection.pk])
    assert "There is no passage to index." in operator_client.get(address).content.decode()
    operator_client.post(address, {"confirmed": "yes"})
    assert not Job.objects.exists()


def test_deleting_a_collection_counts_what_goes_along(operator_client, library):
    address = reverse("admin:agents_collection_delete", args=[library.pk])
    page = operator_client.get(address).content.decode()
    assert "Documents: 1" in page
    operator_client.post(address, {"post": "yes"})
    assert not Document.objects.exists()
