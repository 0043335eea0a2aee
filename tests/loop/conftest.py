"""A small site with corrected questions, and a chat model of a few kilobytes to train."""

import pytest

from agents.services import agent_register, collection_get_or_create, document_add
from rewards.models import Interaction, Reward
from tests.agents.tiny_chat import make

TEXT = "# Towns\n\n" + "\n\n".join(f"The bridge of Town{n} was built in {1700 + n}." for n in range(12))


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "student")


@pytest.fixture
def site(db, settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.MEDIA_ROOT = tmp_path / "uploads"
    settings.ADAPTRAG_LOCAL_MODEL = "inprocess"
    settings.ADAPTRAG_LOCAL_THREADS = settings.ADAPTRAG_TRAINING_THREADS = 1
    settings.ADAPTRAG_JOBS_EAGER = True
    settings.ADAPTRAG_GATE_REFERENCES = 5
    settings.ADAPTRAG_GATE_MARGIN = 0.0  # else a few milliseconds less decide
    document_add(collection=collection_get_or_create("default"), name="towns.md", data=TEXT.encode())
    return settings


@pytest.fixture
def incumbent(site):
    return incumbent_registered()


def incumbent_registered(**options):
    """An agent that never knows; slow, where asked, so that any other saves time."""
    return agent_register(
        name="old", strategy="naive_rag", chat_backend="scripted", chat_options={"answer": "no", **options},
        parameters={"retriever": "bm25"},
    )  # fmt: skip


def asked(variant, number, *, correction="", reward=0.1, words="When was the bridge of Town{} built?"):
    """A logged question, rated and corrected."""
    source = {"chunk_id": 1, "document_id": 1, "document": "towns.md", "text": f"Town{number}: {1700 + number}.", "used": True}
    row = Interaction.objects.create(
        question=words.format(number), answer="no", category="factual", variant=variant, sources=[source],
        collection=collection_get_or_create("default"),
    )  # fmt: skip
    Reward.objects.create(interaction=row, rater="anna", value=reward, correction=correction)
    return row


def log(variant, count=60):
    return [asked(variant, number, correction=str(1700 + number)) for number in range(count)]
