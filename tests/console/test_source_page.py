"""A source opens at its place: rows as a table, the image that a passage speaks of."""

import re
import uuid

import pytest
from django.urls import reverse

from agents.models import Chunk, DocumentImage
from agents.services import agent_register, collection_get_or_create, collection_index, document_add
from tests.agents import sample_files


@pytest.fixture
def fees(db, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "uploads"
    data = sample_files.xlsx({"Fees": [["Ship", "Fee"], ["<b>Anna</b>", 12]]})
    return document_add(collection=collection_get_or_create("default"), name="fees.xlsx", data=data).document


@pytest.fixture
def picture(fees, settings):
    image = DocumentImage.objects.create(
        document=fees, number=1, file="images/1.jpg", content_type="image/jpeg", width=700, height=260, description='A "chart".'
    )
    path = settings.MEDIA_ROOT / image.file.name
    path.parent.mkdir(parents=True)
    path.write_bytes(sample_files.image("JPEG", "Fees"))
    fees.chunks.create(ordinal=9, text="A chart of fees.", kind=Chunk.Kind.IMAGE, image=image, place={"image": 1})
    return image


def test_rows_stand_as_a_table_with_their_place(reader_client, fees):
    page = reader_client.get(reverse("source", args=[fees.chunks.get(kind="rows").pk])).content.decode()
    assert "sheet Fees, row 2" in page
    assert '<th scope="col">Ship</th>' in page
    assert "<td>&lt;b&gt;Anna&lt;/b&gt;</td><td>12</td>" in page


def test_the_image_is_shown_to_those_who_are_signed_in(reader_client, client, picture):
    url = reverse("source_image", args=[picture.pk])
    page = reader_client.get(reverse("source", args=[picture.chunks.get().pk]))
    assert f'<img src="{url}" width="700" height="260" alt="A &quot;chart&quot;."' in page.content.decode()
    response = reader_client.get(url)
    assert (response.status_code, response["Content-Type"], response["X-Content-Type-Options"]) == (
        200,
        "image/jpeg",
        "nosniff",
    )
    assert response.content[:2] == b"\xff\xd8"
    assert reader_client.get(reverse("source_image", args=[999999])).status_code == 404
    reader_client.logout()
    assert client.get(url).status_code == 302


def test_an_image_whose_file_is_gone_is_not_found(reader_client, picture, settings):
    (settings.MEDIA_ROOT / picture.file.name).unlink()
    assert reader_client.get(reverse("source_image", args=[picture.pk])).status_code == 404


def test_the_admin_lists_passages_with_their_place(operator_client, fees):
    page = operator_client.get(reverse("admin:agents_document_change", args=[fees.pk])).content.decode()
    assert "sheet Fees, row 2" in page


@pytest.fixture
def shelf(db, settings, tmp_path):
    """A PDF of two pages, a table and an image that a real reader reads, and an agent that answers from a script."""
    settings.MEDIA_ROOT = tmp_path / "uploads"
    collection = collection_get_or_create("default")
    cones = "\n".join(f"Storm cone {number} hangs on the mast of berth {number} in a gale." for number in range(14))
    files = {
        "lights.pdf": sample_files.pdf(cones, f"{cones}\nLighthouses are painted every seven years."),
        "crews.csv": b"ship,crew\nAnna,12\nBerta,31\n",
        "board.png": sample_files.image("PNG", "Ferries to Skarv", "leave at six"),
    }
    for name, data in files.items():
        document_add(collection=collection, name=name, data=data, index=False)
    collection_index(collection)
    agent_register(
        name="scribe", strategy="hybrid_rag", chat_backend="scripted", chat_options={"answer": "It stands there [1]."}
    )


def test_a_citation_in_the_chat_leads_to_the_page_the_rows_and_the_image(shelf, reader_client):
    asked = {
        "How often are lighthouses painted?": ("page 2", "Lighthouses are painted every seven years."),
        "How large is the crew of the ship Berta?": ("rows 2 to 3", "<td>Berta</td><td>31</td>"),
        "When do ferries to Skarv leave?": ("image 1", "Skarv"),
    }
    for question, (place, words) in asked.items():
        url = reverse("conversation", args=[uuid.uuid4()])
        turn = reader_client.post(url, {"question": question, "agent": "scribe"}, follow=True).content.decode()
        anchor = re.search(r'<a class="cite" href="#([^"]+)"', turn)[1]
        found = turn[turn.index(f'id="{anchor}"') :]
        assert place in found[: found.index("</summary>")]
        link = re.search(r'<a class="open" href="([^"]+)"', found)[1]
        page = reader_client.get(link.partition("#")[0].replace("&amp;", "&")).content.decode()
        passage = page[page.index('id="passage"') :]
        assert words in passage
        assert place in page
        if place == "image 1":
            image = re.search(r'<img src="([^"]+)"', passage)[1]
            assert reader_client.get(image)["Content-Type"] == "image/jpeg"
