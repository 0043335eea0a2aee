"""Tables: questions that count or compare are answered by SQL over typed tables, others from groups of rows."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.llm.base import Message
from agents.llm.weights import DEFAULT_MODEL
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answered, search_query
from agents.tables.query import KnownTable, QueryResult, SqlFailed
from agents.tables.sqlcheck import RefusedSql

INSTRUCTIONS = (
    "You write SQL for DuckDB. Reply with one SELECT statement that answers the question, and nothing else. "
    "Use only the tables and columns given, as written. Compare texts with ILIKE; numbers in VARCHAR columns need TRY_CAST."
)
POOL = 30  # passages among which tables are looked for
EXAMPLE_ROWS, LONGEST_CELL, MOST_COLUMNS = 3, 40, 60
SHOWN_ROWS = 40  # of a result, in the prompt and the sources
_COUNTS = re.compile(
    r"\b(?:how (?:many|much|long|often|old|far|big|large)|number of|count|total|sum|average|mean|median|most|least|fewest|more|"
    r"less|fewer|highest|lowest|largest|smallest|biggest|longest|shortest|oldest|youngest|newest|best|worst|greatest|maximum|"
    r"minimum|max|min|difference|between|percentage|share|ratio|top|bottom|first|last|before|after|next|previous|each|every|per|"
    r"compare[ds]?|rank(?:ed|ing)?|sort(?:ed)?|than|only|same|at least|at most|ever|never|all|consecutive)\b|\b\w{2,}est\b",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"\A\w*[ \t]*\n")
_SELECT = re.compile(r"\b(?:SELECT|WITH)\b.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class TableParameters(CommonParameters):
    sql: str = parameter(
        "auto",
        "Who writes SQL: 'auto' asks the chat model for questions that count or compare, unless it is the shipped one, which "
        "can't; 'always' asks it for every question about a table; 'never' answers from groups of rows.",
        choices=("auto", "always", "never"),
    )
    tables: int = parameter(3, "Documents whose tables the SQL may read, best first.", low=1, high=10)
    sql_tokens: int = parameter(300, "Longest SQL, in tokens.", low=50, high=2000)


class TableRAG(Strategy):
    name = "table_rag"
    title = "Table RAG"
    summary = "Finds tables; counts and compares by SQL where the chat model can write it, else answers from rows."
    Parameters = TableParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        found = tools.retrieve(search_query(request), max(request.top_k, POOL), "hybrid")
        passages = [passage for passage in found if passage.kind in ("schema", "rows")] or found
        passages = passages[: request.top_k]
        if result := self._queried(request, passages, tools):
            passages = [result, *(passage for passage in passages if passage.chunk_id != result.chunk_id)][: request.top_k]
        return answered(request, passages, passages[: self.parameters.prompt_passages], self.parameters, tools)

    def _queried(self, request: AgentRequest, passages: Sequence[Passage], tools: Tools) -> Passage | None:
        """A passage with the SQL and its result; None, with the reason in the trace, where the rows have to do."""
        begun = time.perf_counter()
        if reason := self._no_sql(request, passages, tools):
            tools.note("sql", begun, skipped=reason)
            return None
        documents = list(dict.fromkeys(passage.document_id for passage in passages))[: self.parameters.tables]
        tables = tools.tables(documents)
        if not tables:
            tools.note("sql", begun, skipped="The documents of these passages have no stored tables.")
            return None
        messages = self._messages(request, tables, passages)
        for attempt in ("sql", "repair"):
            reply = tools.chat(messages, purpose=attempt, max_tokens=self.parameters.sql_tokens).text
            sql = extracted(reply)
            try:
                result = tools.select(sql, tables)
            except (RefusedSql, SqlFailed) as error:
                problem = error.message
            else:
                if not result.empty:
                    return _as_passage(result, tables, passages)
                problem = "The query ran and found nothing."
            messages = [
                *messages,
                Message(role="assistant", content=reply),
                Message(
                    role="user",
                    content=f"That failed: {problem}\nWrite the SELECT again, corrected.\n\nQuestion: {request.question}",
                ),
            ]
        tools.note("sql", begun, skipped=f"No SQL worked after one repair, so the rows answer. Last: {problem}")
        return None

    def _no_sql(self, request: AgentRequest, passages: Sequence[Passage], tools: Tools) -> str:
        """Why no SQL is asked for, or nothing."""
        if not any(passage.kind in ("schema", "rows") for passage in passages):
            return "No passage of a table was found."
        if self.parameters.sql == "never":
            return "The parameter sql is 'never'."
        if self.parameters.sql == "auto":
            if tools.chat_name == DEFAULT_MODEL:
                return f"The shipped model {DEFAULT_MODEL} can't write SQL, so the rows answer."
            if not _COUNTS.search(request.question):
                return "The question neither counts nor compares, so the rows answer."
        return ""

    def _messages(self, request: AgentRequest, tables: Sequence[KnownTable], passages: Sequence[Passage]) -> list[Message]:
        described = "\n\n".join(_described(table, passages) for table in tables)
        return [
            Message(role="system", content=INSTRUCTIONS),
            Message(role="user", content=f"{described}\n\nQuestion: {search_query(request)}"),
        ]


def extracted(reply: str) -> str:
    """The statement in a model's reply: what stands in a fence, else from the first SELECT or WITH on."""
    _, _, behind = reply.partition("```")
    fenced, closed, _ = behind.partition("```")
    text = _LANGUAGE.sub("", fenced, count=1) if closed else reply
    statement = _SELECT.search(text)
    return (statement[0] if statement else text).strip().rstrip(";").strip()


def _described(table: KnownTable, passages: Sequence[Passage]) -> str:
    """The table as SQL would make it, with rows of it that were found."""
    columns = table.schema["columns"]
    listed = ",\n".join(
        f"  {column['name']} {column['type']}"
        + (f" -- {column['label']}{', in ' + column['unit'] if column['unit'] else ''}" if _differs(column) else "")
        for column in columns[:MOST_COLUMNS]
    )
    more = f"\n-- and {len(columns) - MOST_COLUMNS} more columns" if len(columns) > MOST_COLUMNS else ""
    rows = [
        line
        for passage in passages
        if passage.document_id == table.document_id and passage.kind == "rows" and passage.place.get("table") == table.stored_as
        for line in passage.text.splitlines()[1:]
    ][:EXAMPLE_ROWS]
    examples = "".join(f"\n-- {' | '.join(cell[:LONGEST_CELL] for cell in row.split(' | '))}" for row in rows)
    return f"-- {table.title}, {table.schema['rows']:,} rows\nCREATE TABLE {table.name} (\n{listed}\n);{more}{examples}"


def _differs(column: dict[str, str]) -> bool:
    return bool(column["unit"]) or column["label"].lower().replace(" ", "_") != column["name"]


def _as_passage(result: QueryResult, tables: Sequence[KnownTable], passages: Sequence[Passage]) -> Passage:
    """What the query was and what it found, as a source at the place of the first table that it reads."""
    table = next((one for one in tables if re.search(rf"\b{re.escape(one.name)}\b", result.sql, re.IGNORECASE)), tables[0])
    rows = [" | ".join("" if value is None else " ".join(value.split()) for value in row) for row in result.rows[:SHOWN_ROWS]]
    count = f"{len(result.rows)}{' or more' if result.more else ''} row{'s' if len(result.rows) != 1 or result.more else ''}"
    shown = f", the first {SHOWN_ROWS} shown" if len(result.rows) > SHOWN_ROWS else ""
    text = "\n".join([f"Result ({count}{shown}):", " | ".join(result.columns), *rows, "", f"SQL: {result.sql}"])
    place = {"table": table.stored_as} | ({"sheet": table.schema["sheet"]} if table.schema["sheet"] else {})
    return Passage(
        chunk_id=table.chunk_id, document_id=table.document_id, document=table.title, text=text, rank=1, kind="sql",
        score=max(passage.score for passage in passages), retriever="sql", heading="Query result", place=place,
    )  # fmt: skip
