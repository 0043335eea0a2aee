"""Collections separate audiences: a key that is limited to one learns nothing of another, whichever way it asks."""

import pytest

from adaptrag.api.services import key_create
from agents.models import DocumentImage
from agents.services import agent_register, collection_get_or_create, document_add
from tests.agents import sample_files
from tests.api.conftest import Api

SECRET = b"Ship,Fee\nAurora,4711\nBorealis,100\n"


@pytest.fixture
def site(db, user, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "uploads"
    public, board = collection_get_or_create("public"), collection_get_or_create("board")
    document_add(collection=public, name="ferries.csv", data=b"Ferry,Hour\nAnna,6\nBerta,17\n")
    secret = document_add(collection=board, name="fees.csv", data=SECRET).document
    image = DocumentImage.objects.create(
        document=secret, number=1, file=f"images/{board.pk}/1.jpg", content_type="image/jpeg", width=700, height=260
    )
    path = settings.MEDIA_ROOT / image.file.name
    path.parent.mkdir(parents=True)
    path.write_bytes(sample_files.image("JPEG", "Fees"))
    for name in ("hybrid_rag", "table_rag", "multimodal_rag"):
        sql = {"sql": "always"} if name == "table_rag" else {}
        agent_register(
            name=name, strategy=name, chat_backend="scripted", parameters=sql,
            chat_options={"script": [["CREATE TABLE", "SELECT SUM(fee) FROM fees"]], "answer": "I do not know."},
        )  # fmt: skip
    keys = {
        name: Api(key_create(user=user, name=name, scope="query", collections=[collection])[1])
        for name, collection in (("public", public), ("board", board))
    }
    return keys, secret, image


@pytest.mark.parametrize("agent", ["hybrid_rag", "table_rag", "multimodal_rag"])
def test_no_passage_table_or_result_of_another_collection_is_a_source(site, agent):
    keys, secret, _ = site
    question = {"question": "What is the total fee of Aurora, 4711?", "top_k": 50}
    answer = keys["public"].send(f"/api/query/{agent}", question)
    assert answer.status_code == 200, answer.content
    assert answer.json()["sources"]
    assert secret.pk not in {source["document_id"] for source in answer.json()["sources"]}
    assert b"Borealis" not in answer.content
    assert keys["board"].send(f"/api/query/{agent}", question).json()["sources"][0]["document_id"] == secret.pk


def test_the_sum_over_a_table_is_told_to_those_who_may_know_it(site):
    keys, _, _ = site
    found = keys["board"].send("/api/query/table_rag", {"question": "What is the total fee?"}).json()["sources"][0]
    assert (found["kind"], "4811" in found["text"]) == ("sql", True)


def test_naming_it_is_refused_in_the_words_for_what_does_not_exist(site):
    keys, _, _ = site
    for path, body in (
        ("/api/query", {"question": "Fees?"}),
        ("/api/query/table_rag", {"question": "Fees?"}),
        ("/api/compare", {"question": "Fees?", "agents": ["hybrid_rag", "table_rag"]}),
    ):
        hidden, absent = (keys["public"].send(path, body | {"collection": name}) for name in ("board", "nowhere"))
        assert hidden.status_code == absent.status_code == 404
        assert hidden.json()["error"]["message"].replace("board", "nowhere") == absent.json()["error"]["message"]


def test_comparing_stays_inside(site):
    keys, secret, _ = site
    agents = ["hybrid_rag", "table_rag", "multimodal_rag"]
    body = keys["public"].send("/api/compare", {"question": "Fee of Borealis?", "agents": agents, "top_k": 50}).json()
    assert len(body["results"]) == 3
    assert secret.pk not in {source["document_id"] for result in body["results"] for source in result["sources"]}


def test_its_documents_schemas_and_images_are_not_there(site):
    keys, secret, image = site
    listed = keys["public"].get("/api/documents").json()["results"]
    assert [document["source"] for document in listed] == ["ferries.csv"]
    for path in (f"/api/documents/{secret.pk}", f"/api/images/{image.pk}"):
        assert keys["public"].get(path).status_code == 404
        assert keys["board"].get(path).status_code == 200
    assert keys["public"].get("/api/images/999999").json()["error"]["code"] == "unknown_image"
    response = keys["board"].get(f"/api/images/{image.pk}")
    assert (response["Content-Type"], response.content[:2]) == ("image/jpeg", b"\xff\xd8")
    assert Api().get(f"/api/images/{image.pk}").status_code == 401
