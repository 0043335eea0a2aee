"""Settings of the tests: the real ones over a throw-away data folder."""

import os
import tempfile
from pathlib import Path

# One folder a test session (and a pytest-xdist worker), unless a test starts processes that must share one.
os.environ.setdefault("ADAPTRAG_DATA_DIR", tempfile.mkdtemp(prefix="adaptrag-test-"))
# Converted weights are the same for every session; making them takes longer than most tests.
os.environ.setdefault("ADAPTRAG_MODELS_DIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "adaptrag-models"))

from adaptrag.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":  # noqa: F405
    # A file, as sites have: threads that meet in a database in memory get "table is locked" at once, whatever their timeout.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}  # noqa: F405
    # Nothing is read after the machine stops. Processes that tests start use the site's own settings, and wait for the disk.
    DATABASES["default"]["OPTIONS"]["init_command"] += " PRAGMA synchronous=OFF;"  # noqa: F405
