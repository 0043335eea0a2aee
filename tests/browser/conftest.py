"""A real Chromium on a real server: uvicorn in a process of its own, on a data folder of its own."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
expect.set_options(timeout=20_000)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no chromium here; `make test-tools` installs Debian's"))


@pytest.fixture(scope="session")
def browser_type_launch_args():
    return {"executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]}


@pytest.fixture(scope="session")
def base_url(tmp_path_factory):
    """The address of the site; pages of the tests start there."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "ADAPTRAG_DATA_DIR": str(folder),
        "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "ADAPTRAG_JOBS_EAGER": "1",  # no queue beside the server
    }
    made = subprocess.run(
        [sys.executable, "-c", "from tests.browser.site import prepare; prepare()"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "web.log"
    with log.open("w") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "adaptrag.asgi:application", "--port", str(port), "--no-access-log"],
            env=environment, cwd=ROOT, stdout=handle, stderr=handle,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def sign_in():
    """Log a page in by its form, and fail the test on any script error or dialog that turns up from then on."""
    troubles = []

    def signed_in(page, name="rita"):
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto("/login/")
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill("pw")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(re.compile(r"://[^/]+/$"))  # loaded: from then on the page's script answers the Enter key
        return page

    yield signed_in
    assert troubles == []
