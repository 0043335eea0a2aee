"""A library of one document, agents that answer from a script, and clients of two kinds."""

import pytest

from agents.services import agent_register, collection_get_or_create, document_add
from evals.services import RunRequest, evalrun_create, evalrun_execute, evalset_create
from evals.sets import Item

HARBOUR = b"# Harbour\n\nThe lighthouse keeper is Marta Olsen.\n\n# Ferries\n\nFerries leave at six in the morning.\n"


@pytest.fixture
def scripted():
    """Registers an agent that gives the same answer to everything."""

    def register(name, answer="Marta Olsen", **options):
        return agent_register(
            name=name, strategy="naive_rag", chat_backend="scripted", parameters={"retriever": "bm25"},
            chat_options={"answer": answer, **options},
        )  # fmt: skip

    return register


@pytest.fixture
def harbour(db):
    """An eval set of three questions over a collection that answers them."""
    document_add(collection=collection_get_or_create("default"), name="harbour.md", data=HARBOUR)
    items = [
        Item(key="keeper", question="Who is the lighthouse keeper?", answers=("Marta Olsen",), gold={"harbour.md": 1.0}),
        Item(key="ferries", question="When do <b>ferries</b> leave?", answers=("at six",), gold={"harbour.md": 1.0}),
        Item(key="open", question="What is beyond the harbour?"),
    ]
    return evalset_create(name="harbour", items=items, source="jsonl")


@pytest.fixture
def done_run(harbour, scripted):
    scripted("one"), scripted("two", "<script>alert(1)</script> at six o'clock")
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("one", "two")))
    evalrun_execute(run.pk)
    run.refresh_from_db()
    return run


@pytest.fixture
def operator_client(client, django_user_model):
    client.force_login(django_user_model.objects.create_superuser("olga", "olga@example.org", "pw"))
    return client


@pytest.fixture
def clerk_client(client, django_user_model):
    """Staff without any permission."""
    client.force_login(django_user_model.objects.create_user("carl", password="pw", is_staff=True))
    return client
