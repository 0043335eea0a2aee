"""Tables: reading and typing them, storing them, asking them."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from agents import services
from agents.errors import DocumentRejected
from agents.ingestion.base import CSV, JSONL, TSV, XLSX, Limits
from agents.ingestion.parse import parse
from agents.ingestion.table_chunks import table_chunks
from agents.ingestion.tables import looks_delimited, sql_names
from agents.models import Chunk, Document
from agents.services.tables import tables_of
from agents.tables.query import SqlFailed, run_select
from tests.agents import sample_files

LIMITS = Limits(
    bytes=10_000_000, pages=5, expanded_bytes=20_000_000, characters=1_000_000, seconds=60, memory_bytes=1_000_000_000,
    columns=50, cells=100_000, cell_characters=1_000, records=100,
)  # fmt: skip
SHIPS = b"""Ship,Built,Tonnage,Fee,Share,Inspected,Active,Code
Anna,1990,"1,200",$5.50,5%,2024-01-02,true,007
"Berta, the old",1985,900,$7,7.5%,2024-03-04,false,010
Carla,-,2500,,1%,,true,011
"""


def table(data: bytes, kind: str = CSV, name: str = "ships.csv"):
    (found,) = parse(name, data, kind, LIMITS).tables
    return found


def test_columns_are_typed_by_all_their_values():
    columns = {column.label: (column.type, column.unit) for column in table(SHIPS).columns}
    assert columns == {
        "Ship": ("VARCHAR", ""), "Built": ("BIGINT", ""), "Tonnage": ("BIGINT", ""), "Fee": ("DOUBLE", "$"),
        "Share": ("DOUBLE", "%"), "Inspected": ("DATE", ""), "Active": ("BOOLEAN", ""), "Code": ("VARCHAR", ""),
    }  # fmt: skip


@pytest.mark.parametrize("data", [b"a;b\n1;2,5\n", b"a\tb\n1\t2\n", b"a|b\n1|2\n", b'a,b\n"x \\"y\\", z",2\n'])
def test_the_delimiter_is_found(data):
    assert len(table(data).columns) == 2


def test_names_need_no_quotes_in_sql():
    assert sql_names(["Team name", "team_name", "2019", "Order", "", "Größe (m)"]) == [
        "team_name", "team_name_2", "n_2019", "order_", "column_", "größe_m",
    ]  # fmt: skip


def test_rows_know_where_they_stand():
    chunks = table_chunks([table(b'a,b\n"two\nlines",1\n\nlast,2\n')], 128, 64, lambda text: len(text.split()))
    assert [(chunk.kind, chunk.place) for chunk in chunks] == [
        ("schema", {"table": "ships"}), ("rows", {"table": "ships", "rows": [2, 5]}),
    ]  # fmt: skip
    assert chunks[1].text == "a | b\ntwo lines | 1\nlast | 2"


def test_every_group_of_rows_has_the_header_and_every_row_is_in_one():
    data = "name,number\n" + "".join(f"ship {n},{n}\n" for n in range(200))
    groups = [c for c in table_chunks([table(data.encode())], 64, 32, lambda text: len(text.split())) if c.kind == "rows"]
    assert len(groups) > 5
    assert all(group.text.startswith("name | number\n") for group in groups)
    assert [line for group in groups for line in group.text.splitlines()[1:]] == [f"ship {n} | {n}" for n in range(200)]
    assert [group.place["rows"][0] for group in groups][:2] == [2, groups[0].place["rows"][1] + 1]
    for group in groups:
        assert "".join(group.text[a:b] for a, b in group.windows).count("ship") == group.text.count("ship")


def test_visible_sheets_are_tables_with_titles_above_the_header_kept_apart():
    data = sample_files.xlsx(
        {
            "Fees 2024": [["Harbour fees"], [], ["Ship", "Paid", "Sum"], ["Anna", datetime.date(2024, 5, 1), 12.5]],
            "Empty": [],
            "Secret": [["x", "y"], [1, 2]],
        },
        hidden=("Secret",),
    )
    found = table(data, XLSX, "fees.xlsx")
    assert (found.name, found.sheet, found.caption, found.numbers) == ("fees_2024", "Fees 2024", "Harbour fees", [4])
    assert [(column.name, column.type) for column in found.columns] == [
        ("ship", "VARCHAR"), ("paid", "DATE"), ("sum", "DOUBLE"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,born\nAnn,1990\nBob,1985\n", True),
        ('"a","b"\n"x, y","1"\n"z","2"\n', True),
        ("year;1980;1990\nWorld;1;2\nAfrica;3;4\n", True),
        ("One, two.\nThree, four.\n", False),
        ("It rained, and nobody came to the harbour that day, which was sad because the ships had all left.\n" * 5, False),
        ("1,2\n3,4\n5,6\n", False),
        ("just\nsome\nlines\n", False),
        ("", False),
    ],
)
def test_a_text_without_a_name_is_a_table_by_its_content_alone(text, expected):
    assert looks_delimited(text) is expected


@pytest.mark.parametrize(
    ("name", "data", "kind", "words"),
    [
        ("cut.csv", b'a,b\n1,"never ends\n2,3\n', CSV, "line 2: a quoted cell that begins here never ends"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", CSV, "line 3: 3 cells, but the header has 2"),
        ("wide.csv", b",".join([b"x"] * 1_000_000), CSV, "line 1: 1,000,000 columns; at most 50"),
        ("wide.tsv", b"\t".join([b"x"] * 60) + b"\n", TSV, "60 columns; at most 50"),
        ("long.csv", b"a,b\n" + b"1,2\n" * 60_000, CSV, "more than 100,000 cells"),
        ("cell.csv", b"a,b\n1," + b"x" * 2000 + b"\n", CSV, "line 2: a cell has more than 1,000 characters"),
        ("blank.csv", b" , \n,\n", CSV, "no cells in it"),
        ("nul.csv", b"a,b\n1,\x002\n", CSV, "NUL bytes"),
        ("cut.xlsx", sample_files.xlsx({"A": [["x"], [1]]})[:-100], XLSX, "truncated or damaged"),
        ("bomb.xlsx", sample_files.zip_bomb(50_000_000), XLSX, "expands to"),
        ("empty.xlsx", sample_files.xlsx({"A": []}), XLSX, "no text in it"),
        ("cell.xlsx", sample_files.xlsx({"A": [["x"], ["y" * 2000]]}), XLSX, "row 2: a cell has 2,000 characters"),
        ("wide.xlsx", sample_files.xlsx({"A": [list(range(60))]}), XLSX, "60 columns; at most 50"),
        ("sheets.xlsx", sample_files.xlsx({f"S{n}": [["x"]] for n in range(6)}), XLSX, "6 sheets; at most 5"),
        ("bad.jsonl", b'{"a": 1}\n\n{"a": \n', JSONL, "bad.jsonl, line 3: not JSON"),
        ("list.jsonl", b'{"a": 1}\n[1]\n', JSONL, "line 2: a record is a JSON object or a text, not list"),
        ("many.jsonl", b'{"a": 1}\n' * 101, JSONL, "more than 100 records"),
        ("deep.jsonl", b'{"a":' * 100_000, JSONL, "line 1: not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_table_is_rejected_with_its_place(name, data, kind, words):
    with pytest.raises(DocumentRejected) as caught:
        parse(name, data, kind, LIMITS)
    assert words in caught.value.message
    assert caught.value.message.startswith(name)


def test_a_sheet_that_claims_a_far_cell_takes_only_its_own_process_down():
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sample_files.xlsx({"A": [["x"], [1]]}))) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.namelist():
            new.writestr(part, old.read(part).replace(b'r="A2"', b'r="XFD1048576"'))
    with pytest.raises(DocumentRejected, match=r"far\.xlsx"):
        parse("far.xlsx", out.getvalue(), XLSX, LIMITS)


def test_json_lines_are_sections_that_know_their_lines():
    parsed = parse("r.jsonl", b'{"title": "Rain", "text": "It rains.", "tags": ["wet", 1]}\n\n"A text."\n', JSONL, LIMITS)
    assert parsed.text == "Rain\nIt rains.\ntags: wet, 1\n\nA text.\n\n"
    assert [(mark.kind, mark.level) for mark in parsed.marks] == [("line", 1), ("heading", 1), ("line", 3)]


@pytest.mark.django_db(transaction=True)
class TestStored:
    @pytest.fixture(autouse=True)
    def own_uploads(self, settings, tmp_path):
        settings.MEDIA_ROOT = tmp_path / "uploads"

    @pytest.fixture
    def collection(self):
        return services.collection_get_or_create("harbour")

    def add(self, collection, name="ships.csv", data=SHIPS) -> Document:
        return services.document_add(collection=collection, name=name, data=data).document

    def ask(self, collection, document, sql):
        return run_select(sql, tables_of(collection, [document.pk])).rows

    def files(self, settings) -> list[Path]:
        return sorted(path for path in (Path(settings.MEDIA_ROOT) / "tables").rglob("*") if path.is_file())

    def test_an_uploaded_table_can_be_asked(self, collection):
        document = self.add(collection)
        assert document.state == Document.State.READY
        assert self.ask(collection, document, "SELECT SUM(tonnage), MIN(built), MAX(fee) FROM ships") == [["4600", "1985", "7"]]
        assert self.ask(collection, document, "SELECT ship FROM ships WHERE inspected > '2024-02-01'") == [["Berta, the old"]]
        assert self.ask(collection, document, "SELECT COUNT(built) FROM SHIPS WHERE active") == [["1"]]
        kinds = document.chunks.order_by("ordinal").values_list("kind", flat=True)
        assert list(kinds) == [Chunk.Kind.SCHEMA, Chunk.Kind.ROWS]
        assert document.metadata["tables"][0]["rows"] == 3

    def test_a_new_version_replaces_the_table_and_deletion_removes_it(self, collection, settings):
        self.add(collection)
        (old,) = self.files(settings)
        document = self.add(collection, data=SHIPS + b"Dora,2001,10,$1,1%,2024-01-01,true,012\n")
        (new,) = self.files(settings)
        assert new != old
        assert self.ask(collection, document, "SELECT COUNT(*) FROM ships") == [["4"]]
        services.document_delete(document)
        assert self.files(settings) == []

    def test_a_bad_table_leaves_nothing_behind(self, collection, settings):
        with pytest.raises(DocumentRejected):
            self.add(collection, data=b"a,b\n1,2,3\n")
        assert self.files(settings) == []
        assert not Document.objects.exists()

    def test_what_a_dead_process_left_is_swept_away_in_time(self, collection, settings):
        self.add(collection)
        (kept,) = self.files(settings)
        root, old = Path(settings.MEDIA_ROOT), time.time() - 2 * 24 * 3600
        for path in (kept.with_name("orphan.duckdb"), root / ".reading-dead" / "tables.duckdb", root / ".reading-alive" / "x"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        for path in (kept, kept.with_name("orphan.duckdb"), root / ".reading-dead"):
            os.utime(path, (old, old))
        self.add(collection, name="more.csv")
        assert kept in self.files(settings)
        assert len(self.files(settings)) == 2
        assert [path.name for path in root.glob(".reading-*")] == [".reading-alive"]

    def test_only_the_first_rows_are_searched_but_all_are_asked(self, collection, settings):
        settings.ADAPTRAG_INDEXED_ROWS = 2
        document = self.add(collection, data=b"n\n" + b"".join(b"%d\n" % n for n in range(10, 60)))
        assert self.ask(collection, document, "SELECT COUNT(*) FROM ships") == [["50"]]
        schema, rows = document.chunks.order_by("ordinal")
        assert "of which the first 2 are searched as text" in schema.text
        assert rows.text == "n\n10\n11"

    def test_tables_of_another_collection_are_not_there(self, collection):
        document = self.add(collection)
        assert tables_of(services.collection_get_or_create("other"), [document.pk]) == []

    def test_a_query_is_held_to_its_rows_time_and_memory(self, collection, settings):
        document = self.add(collection, data=b"n\n" + b"".join(b"%d\n" % n for n in range(2000)))
        settings.ADAPTRAG_SQL_ROWS = 5
        result = run_select("SELECT n FROM ships ORDER BY n", tables_of(collection, [document.pk]))
        assert (len(result.rows), result.more) == (5, True)
        endless = "SELECT COUNT(*) FROM ships a, ships b, ships c, ships d WHERE a.n + b.n + c.n + d.n > 3"
        settings.ADAPTRAG_SQL_SECONDS = 2
        with pytest.raises(SqlFailed, match=r"2 s|broke off"):
            self.ask(collection, document, endless)
        settings.ADAPTRAG_SQL_SECONDS = 20
        with pytest.raises(SqlFailed):
            self.ask(collection, document, "SELECT a.n, b.n, c.n FROM ships a, ships b, ships c ORDER BY a.n + b.n + c.n, a.n")

    def test_what_duckdb_says_of_wrong_sql_reaches_the_writer(self, collection):
        with pytest.raises(SqlFailed, match="tonnag"):
            self.ask(collection, self.add(collection), "SELECT tonnag FROM ships")

    def test_beir_passages_that_are_tables_become_tables(self, collection, tmp_path):
        import json

        folder = tmp_path / "mixed"
        folder.mkdir()
        passages = [("a", "Ships", SHIPS.decode()), ("b", "Rain", "Rain falls, as it does, in spring.")]
        lines = [json.dumps({"_id": key, "title": title, "text": text}) for key, title, text in passages]
        (folder / "corpus.jsonl").write_text("\n".join(lines))
        services.corpus_add(collection=collection, folder=folder, progress=lambda *_: None)
        tables = tables_of(collection, list(collection.documents.values_list("id", flat=True)))
        assert [(one.name, one.title) for one in tables] == [("ships", "Ships")]
        assert run_select("SELECT COUNT(*) FROM ships", tables).rows == [["3"]]
        again = services.corpus_add(collection=collection, folder=folder, progress=lambda *_: None)
        assert again.changed == 0
        assert len(list((Path(tables[0].path).parent).iterdir())) == 1
