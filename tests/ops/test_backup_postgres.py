"""backup and restore of a site on PostgreSQL."""

from __future__ import annotations

import psycopg
import pytest

from tests.ops.site import Site
from tests.postgres import postgres_server

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

FILL = """
from agents.models import Collection
Collection.objects.bulk_create(Collection(name=f"c{number}") for number in range(50))
"""


@pytest.fixture(scope="module")
def server():
    with postgres_server() as started:
        yield started


def names(address: str) -> list[str]:
    with psycopg.connect(address) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM agents_collection ORDER BY id").fetchall()]


def test_a_site_on_postgres_moves_to_another_server_and_refuses_to_overwrite_one(server, tmp_path):
    first = Site(tmp_path / "first", DATABASE_URL=server.create_database("first"))
    assert first.manage("migrate", "-v", "0").returncode == 0
    assert first.start(FILL).wait() == 0
    made = first.must("backup", tmp_path / "b.tar.gz")
    assert (made["engine"], made["counts"]["agents_collection"]) == ("postgresql", 50)

    address = server.create_database("second")
    second = Site(tmp_path / "second", DATABASE_URL=address)
    restored = second.must("restore", tmp_path / "b.tar.gz")
    assert (restored["counts"], restored["replaced"], restored["pending_migrations"]) == (made["counts"], None, [])
    assert names(address) == [f"c{number}" for number in range(50)]
    assert (second.folder / "secret_key").read_text() == (first.folder / "secret_key").read_text()

    with psycopg.connect(address) as connection:
        connection.execute("DELETE FROM agents_collection WHERE name <> 'c7'")
    refused = second.manage("restore", tmp_path / "b.tar.gz")
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert names(address) == ["c7"]
    with psycopg.connect(address):
        busy = second.manage("restore", tmp_path / "b.tar.gz", "--force")
    assert busy.returncode == 1
    assert "Stop the site first" in busy.stderr
    forced = second.must("restore", tmp_path / "b.tar.gz", "--force")
    assert names(address) == [f"c{number}" for number in range(50)]
    assert (second.folder / forced["replaced"].rsplit("/", 1)[1] / "postgresql.dump").stat().st_size > 10_000


def test_a_backup_of_the_other_kind_of_database_is_refused(migrated, server, tmp_path):
    migrated.must("backup", tmp_path / "b.tar.gz")
    site = Site(tmp_path / "var", DATABASE_URL=server.create_database("third"))
    done = site.manage("restore", tmp_path / "b.tar.gz")
    assert done.returncode == 1
    assert "sqlite database, and this site uses postgresql" in done.stderr
