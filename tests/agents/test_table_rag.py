"""table_rag over stored tables: SQL where the model writes it, rows where it doesn't, and the trace says which."""

from __future__ import annotations

import pytest

from agents import services
from agents.retrieval.search import retrieve
from agents.services.tables import StoredTables
from agents.strategies import STRATEGIES
from agents.strategies.base import AgentRequest, Tools
from agents.strategies.table_rag import extracted
from tests.agents.doubles import Replies

pytestmark = pytest.mark.django_db(transaction=True)

FEES = b'Ship,Year,Fee\nAnna,2023,100\nAnna,2024,120\nBerta,2023,80\nBerta,2024,"1,090"\n'
TOTAL = "What is the total fee of Anna?"


@pytest.fixture
def ask(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "uploads"
    collection = services.collection_get_or_create("harbour")
    services.document_add(collection=collection, name="harbour fees.csv", data=FEES)
    services.document_add(collection=collection, name="rain.md", data=b"# Rain\n\nRain falls on ships.")

    def ask(*replies, question=TOTAL, name="replies", where=None, **parameters):
        chat = Replies(*replies)
        chat.name = name
        where = where or collection
        tools = Tools(collection=where, chat=chat, retrieve=retrieve, tables=StoredTables())
        strategy = STRATEGIES["table_rag"](STRATEGIES["table_rag"].Parameters.from_dict(parameters))
        return strategy.answer(AgentRequest(question=question, collection=where), tools), tools, chat

    return ask


def steps(tools, step="sql"):
    return [one for one in tools.trace if one["step"] == step]


def test_a_total_is_computed_and_its_sql_and_result_are_a_source(ask):
    draft, tools, chat = ask("```sql\nSELECT SUM(fee) AS total FROM harbour_fees WHERE ship ILIKE 'anna';\n```", "220")
    assert draft.text == "220"
    first = draft.passages[0]
    assert (first.kind, first.retriever) == ("sql", "sql")
    assert first.text.startswith("Result (1 row):\ntotal\n220\n")
    assert "SQL: SELECT SUM(fee) AS total FROM harbour_fees" in first.text
    assert first in draft.used
    assert first.text in chat.prompts[-1][-1].content
    assert "fee BIGINT" in chat.prompts[0][-1].content
    (step,) = steps(tools)
    assert (step["rows"], step["result"]) == (1, [["220"]])
    assert len({passage.chunk_id for passage in draft.passages}) == len(draft.passages)


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ("SELECT SUM(charge) FROM harbour_fees", "charge"),
        ("SELECT * FROM read_csv('/etc/passwd')", "no table"),
        ("I would add the fees.", "SQL"),
        ("SELECT fee FROM harbour_fees WHERE ship = 'Nobody'", "found nothing"),
    ],
    ids=["wrong column", "hostile", "no sql", "nothing found"],
)
def test_sql_that_fails_is_repaired_once_with_the_reason(ask, first, problem):
    draft, tools, chat = ask(first, "SELECT SUM(fee) FROM harbour_fees WHERE ship = 'Anna'", "220")
    assert "220" in draft.passages[0].text
    repair = chat.prompts[1]
    assert (repair[-2].content, repair[-1].role) == (first, "user")
    assert problem in repair[-1].content
    assert [step["purpose"] for step in steps(tools, "chat")] == ["sql", "repair", "answer"]


def test_sql_that_fails_twice_leaves_it_to_the_rows(ask):
    draft, tools, chat = ask("SELECT nonsense FROM nowhere", "SELECT nonsense FROM nowhere", "220 in all")
    assert draft.text == "220 in all"
    assert {passage.kind for passage in draft.passages} <= {"schema", "rows"}
    assert "No SQL worked after one repair" in steps(tools)[-1]["skipped"]
    assert "Anna | 2023 | 100" in chat.prompts[-1][-1].content


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "smollm2"}, "shipped model smollm2 can't write SQL"),
        ({"question": "Tell me about the fee of Anna in 2023"}, "neither counts nor compares"),
        ({"sql": "never"}, "'never'"),
    ],
    ids=["shipped model", "look-up", "never"],
)
def test_the_rows_answer_where_no_sql_is_asked_for_and_the_trace_says_why(ask, options, reason):
    draft, tools, chat = ask("100", **options)
    assert len(chat.prompts) == 1
    assert reason in steps(tools)[0]["skipped"]
    assert {passage.kind for passage in draft.passages} <= {"schema", "rows"}


def test_always_asks_whatever_the_question_and_the_model(ask):
    _, tools, _ = ask("SELECT fee FROM harbour_fees LIMIT 1", "100", question="Fee of Anna", name="smollm2", sql="always")
    assert steps(tools)[0]["rows"] == 1


def test_without_tables_it_answers_from_text(ask, settings):
    other = services.collection_get_or_create("texts")
    services.document_add(collection=other, name="rain.md", data=b"# Rain\n\nRain falls on ships.")
    draft, tools, _ = ask("From clouds.", question="How many ships?", where=other)
    assert draft.text == "From clouds."
    assert steps(tools)[0]["skipped"] == "No passage of a table was found."


@pytest.mark.parametrize(
    ("reply", "sql"),
    [
        ("SELECT 1;", "SELECT 1"),
        ("Sure! Here it is:\n```sql\nSELECT 1;\n```\nIt counts.", "SELECT 1"),
        ("The query: with a as (select 1) select * from a", "with a as (select 1) select * from a"),
        ("I can't.", "I can't."),
    ],
)
def test_the_statement_is_found_in_a_reply(reply, sql):
    assert extracted(reply) == sql
