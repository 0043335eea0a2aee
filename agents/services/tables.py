"""Tables of documents as strategies ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from agents.ingestion.tables import sql_names
from agents.models import Chunk, Collection
from agents.services.storing import upload_path
from agents.tables.query import KnownTable, QueryResult, run_select


class StoredTables:
    """agents.strategies.base.TableAccess over the documents' DuckDB files."""

    def of(self, collection: Collection, documents: Sequence[int]) -> list[KnownTable]:
        return tables_of(collection, documents)

    def select(self, sql: str, tables: Sequence[KnownTable]) -> QueryResult:
        return run_select(sql, tables)


def tables_of(collection: Collection, documents: Sequence[int]) -> list[KnownTable]:
    """The tables of these documents of a collection, in their order, each with a name that is distinct among them."""
    found = collection.documents.exclude(tables_file="").in_bulk(list(documents))
    schemas = Chunk.objects.filter(document__in=list(found), kind=Chunk.Kind.SCHEMA).values_list("document_id", "place", "id")
    described = {(document, place["table"]): chunk for document, place, chunk in schemas}
    listed = [
        (found[document], table)
        for document in documents
        if document in found
        for table in found[document].metadata["tables"]
        if (document, table["name"]) in described  # else it is being replaced just now
    ]
    names = sql_names([table["name"] for _, table in listed], "data")
    return [
        KnownTable(
            name=name,
            title=" > ".join(filter(None, (document.title or document.source, table["sheet"]))),
            document_id=document.pk,
            chunk_id=described[document.pk, table["name"]],
            path=upload_path(document.tables_file.name),
            stored_as=table["name"],
            schema=table,
        )
        for name, (document, table) in zip(names, listed, strict=True)
    ]
