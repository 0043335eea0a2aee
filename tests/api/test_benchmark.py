"""`benchmark serving` measures what it says: every answer is in the log."""

import json
import os
import subprocess
import sys

import pytest
from django.conf import settings

from tests.api.conftest import ROOT


@pytest.mark.slow
def test_benchmark_serving_prints_one_json_object_with_its_rows():
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "ADAPTRAG_MODELS_DIR": str(settings.ADAPTRAG_MODELS_DIR),
    }
    command = [sys.executable, "manage.py", "benchmark", "serving", "--json", "--seconds", "0.5", "--documents", "20"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"benchmark", "machine", "commit", "rows"}
    rows = {(row["server"], row["concurrency"]): row for row in result["rows"]}
    for concurrency in (1, 16):
        served = rows["POST /api/query", concurrency]
        assert (served["errors"], served["logged"]) == (0, True)
        assert 0 < served["p50_ms"] <= served["p95_ms"] <= served["p99_ms"]
        assert rows["bare ASGI echo", concurrency]["requests_per_second"] > served["requests_per_second"]
    assert rows["embedding one question", 1]["p50_ms"] > 0
