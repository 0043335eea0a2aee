"""Accounts of three kinds, a library of one document, two agents that answer from a script, and a little history."""

import pytest

from adaptrag.orchestrator import QueryRequest, query
from agents.services import agent_register, collection_get_or_create, document_add
from rewards.services import feedback_record

HARBOUR = b"# Harbour\n\nThe lighthouse keeper is Marta Olsen.\n\n# Ferries\n\nFerries leave at six in the morning.\n"


@pytest.fixture
def superuser(db, django_user_model):
    return django_user_model.objects.create_superuser("olga", "olga@example.org", "pw")


@pytest.fixture
def clerk(db, django_user_model):
    """Staff without any permission."""
    return django_user_model.objects.create_user("carl", password="pw", is_staff=True)


@pytest.fixture
def reader(db, django_user_model):
    """No staff: the chat page is what there is."""
    return django_user_model.objects.create_user("rita", password="pw")


@pytest.fixture
def operator_client(client, superuser):
    client.force_login(superuser)
    return client


@pytest.fixture
def reader_client(client, reader):
    client.force_login(reader)
    return client


@pytest.fixture
def library(db):
    collection = collection_get_or_create("default")
    document_add(collection=collection, name="harbour.md", data=HARBOUR)
    return collection


def scripted(name, **options):
    return agent_register(
        name=name,
        strategy="naive_rag",
        chat_backend="scripted",
        chat_options={"answer": "Marta Olsen [1].", **options},
        parameters={"retriever": "bm25"},
    )


@pytest.fixture
def agents(db):
    return scripted("brisk"), scripted("calm")


@pytest.fixture
def history(library, agents, reader):
    """Four answered questions of the reader, three of them rated."""
    results = [query(QueryRequest(question="Who is the lighthouse keeper?", user=reader)) for _ in range(4)]
    for result, reward in zip(results, (1.0, 0.75, 0.0), strict=False):
        feedback_record(interaction_id=result.interaction_id, reward=reward, rater="user:rita", comment="noted")
    return results
