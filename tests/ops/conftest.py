from __future__ import annotations

import pytest

from tests.ops.site import Site


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Site:
    """A site with an empty database, made once; tests work on copies."""
    site = Site(tmp_path_factory.mktemp("migrated") / "var")
    done = site.manage("migrate", "-v", "0")
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def site(migrated, tmp_path) -> Site:
    return migrated.copy(tmp_path / "var")
