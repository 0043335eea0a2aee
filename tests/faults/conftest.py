from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.queue_site import QueueSite
from tests.postgres import postgres_server


@pytest.fixture(scope="session")
def migrated_queue(tmp_path_factory) -> QueueSite:
    """An empty site, migrated once; tests work on copies."""
    site = QueueSite(tmp_path_factory.mktemp("queue") / "var")
    done = site.manage("migrate", "-v", "0")
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def queue_site(migrated_queue, tmp_path) -> Iterator[QueueSite]:
    """A site whose clusters the test starts itself."""
    site = migrated_queue.copy(tmp_path / "var")
    yield site
    site.close()


@pytest.fixture
def postgres_queue_site(tmp_path) -> Iterator[QueueSite]:
    """The same on PostgreSQL."""
    with postgres_server() as server:
        site = QueueSite(tmp_path / "var", DATABASE_URL=server.create_database("queue"))
        site.ask("call_command('migrate', verbosity=0)")
        yield site
        site.close()


@pytest.fixture(scope="module")
def queue(migrated_queue, tmp_path_factory) -> Iterator[QueueSite]:
    """A site with a running cluster, shared by the tests that don't kill it."""
    site = migrated_queue.copy(tmp_path_factory.mktemp("shared") / "var")
    site.start_cluster()
    yield site
    site.close()
