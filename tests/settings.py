"""Settings of the tests: the real ones over a throw-away data folder."""

import os
import tempfile

# One folder a test session (and a pytest-xdist worker), unless a test starts processes that must share one.
os.environ.setdefault("ADAPTRAG_DATA_DIR", tempfile.mkdtemp(prefix="adaptrag-test-"))

from adaptrag.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
