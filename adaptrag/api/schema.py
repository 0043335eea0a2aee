"""The OpenAPI description: what drf-spectacular can't see for itself."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema

from adaptrag.api.errors import status_words

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string", "description": "For programs; stable."},
                "message": {"type": "string", "description": "For people: what was wrong, with which value, and what to do."},
                "details": {"type": "object", "additionalProperties": True},
            },
        }
    },
}
# What may go wrong, by path: the parts of a path that stand for one thing (404), chat models (502-504).
ALWAYS = (400, 405, 413, 429, 500, 503)
WITH_KEY = (401, 403)
WITH_BODY = (415, 422)
CONFLICTS = (404, 409)
CHAT = (502, 504)
OPEN_PATHS = ("/api/health", "/api/schema", "/api/docs")


class ApiSchema(AutoSchema):
    def get_tags(self) -> list[str]:
        """One group for each resource: /api/rl/stats is under rl."""
        return [self.path.strip("/").split("/")[1]]


def only_api(endpoints: list[tuple]) -> list[tuple]:
    return [endpoint for endpoint in endpoints if endpoint[0].startswith(("/api/", "/v1/"))]


def add_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Every operation may answer in the error form; say with which statuses."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
    answer = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in result["paths"].items():
        for operation in operations.values():
            statuses = {*ALWAYS}
            if path not in OPEN_PATHS:
                statuses |= {*WITH_KEY, *CONFLICTS}
            if "requestBody" in operation:
                statuses |= {*WITH_BODY}
            if path.startswith(("/api/query", "/api/compare")):
                statuses |= {*CHAT}
            for status in sorted(statuses):
                operation["responses"].setdefault(str(status), {"description": status_words(status), "content": answer})
    return result
