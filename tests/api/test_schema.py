"""The OpenAPI description is true: what it calls valid is taken, and every answer has a shape that it names."""

import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.api.conftest import TEXT, Api


@pytest.fixture(scope="module")
def api_schema(server):
    yield schemathesis.openapi.from_url(f"{server.url}/api/schema")
    # The operator's calls that were made up may have deleted what the other tests ask about.
    head = {"Authorization": f"Bearer {server.operator_key}"}
    requests.post(
        f"{server.url}/api/documents", files={"file": ("harbour.md", TEXT)}, headers=head, timeout=60
    ).raise_for_status()


def no_unexpected_failure(context, response, case):
    assert response.status_code != 500, response.content


CHECKS = [
    no_unexpected_failure,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
schema = schemathesis.pytest.from_fixture("api_schema")


@pytest.mark.slow
@schema.exclude(path_regex="/api/(schema|docs)").parametrize()
@settings(
    max_examples=12, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_every_operation_keeps_to_the_schema(case, server):
    if isinstance(case.query, dict):
        case.query.pop("stream", None)
    case.call_and_validate(
        headers={"Authorization": f"Bearer {server.operator_key}"},
        checks=CHECKS,
        timeout=20,
    )


def test_the_schema_names_every_operation_and_its_errors(db):
    described = json.loads(Api().get("/api/schema").content)
    operations = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert operations >= {
        ("POST", "/api/query"), ("POST", "/api/query/{agent}"), ("POST", "/api/compare"), ("POST", "/api/feedback"),
        ("GET", "/api/interactions/{interaction_id}"), ("GET", "/api/rl/stats"), ("GET", "/api/rl/leaderboard"),
        ("POST", "/api/rl/reset"), ("GET", "/api/agents"), ("GET", "/api/collections"), ("GET", "/api/documents"),
        ("POST", "/api/documents"), ("GET", "/api/documents/{document_id}"), ("DELETE", "/api/documents/{document_id}"),
        ("GET", "/api/health"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/{model}"),
    }  # fmt: skip
    for path, methods in described["paths"].items():
        error = "OpenAIError" if path.startswith("/v1/") else "Error"
        for method, operation in methods.items():
            assert operation.get("summary") or operation.get("description"), (method, path)
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and path != "/api/health":
                    shape = answer["content"]["application/json"]["schema"]
                    assert shape == {"$ref": f"#/components/schemas/{error}"}, (method, path, status)
