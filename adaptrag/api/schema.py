"""The OpenAPI description: what drf-spectacular can't see for itself."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema

from adaptrag.api.errors import JSON_PREFIXES, OPENAI_PREFIX, status_words

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
OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": [*ERROR["properties"]["error"]["required"], "type", "param"],
            "properties": ERROR["properties"]["error"]["properties"]
            | {
                "type": {"type": "string", "description": "OpenAI's word for the kind of error."},
                "param": {"type": "string", "nullable": True, "description": "The parameter that is wrong, where it is one."},
            },
        }
    },
}
ALWAYS = (400, 405, 413, 429, 500, 503)
WITH_KEY = (401, 403)
WITH_BODY = (415,)
# What may go wrong beyond that, by the start of the path.
ALSO = {
    "/api/query": (404, 409, 504),
    "/api/compare": (404, 409, 504),
    "/api/feedback": (404, 409),
    "/api/interactions": (404,),
    "/api/documents": (404, 409, 422),
    "/api/images": (404,),
    "/api/rl/reset": (409,),
    "/api/agents/": (404, 409),
    "/api/evals": (404, 409),
    "/api/training": (404, 409),
    "/api/improve": (404, 409),
    "/v1/chat": (404, 409, 504),
    "/v1/models/": (404,),
}
OPEN_PATHS = ("/api/health", "/api/schema", "/api/docs")


class ApiSchema(AutoSchema):
    def get_tags(self) -> list[str]:
        """One group for each resource: /api/rl/stats is under rl."""
        return [self.path.strip("/").split("/")[1]]


def only_api(endpoints: list[tuple]) -> list[tuple]:
    return [endpoint for endpoint in endpoints if endpoint[0].startswith(JSON_PREFIXES)]


def add_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Every operation may answer in the error form; say with which statuses."""
    result.setdefault("components", {}).setdefault("schemas", {}).update(Error=ERROR, OpenAIError=OPENAI_ERROR)
    for path, operations in result["paths"].items():
        name = "OpenAIError" if path.startswith(OPENAI_PREFIX) else "Error"
        answer = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        for operation in operations.values():
            statuses = {*ALWAYS, *(status for start, also in ALSO.items() if path.startswith(start) for status in also)}
            if path not in OPEN_PATHS:
                statuses |= {*WITH_KEY}
            if "requestBody" in operation:
                statuses |= {*WITH_BODY}
            for status in sorted(statuses):
                operation["responses"].setdefault(str(status), {"description": status_words(status), "content": answer})
    return result
