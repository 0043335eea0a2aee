"""One error form for everything under /api/: {"error": {"code", "message", "details"}} with the right status.

Under /v1/ it also has what the clients of OpenAI read.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import csrf, defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response

from adaptrag.common.errors import AdaptRAGError, InvalidInput, Unavailable
from adaptrag.logs import refusal_note, request_id

logger = logging.getLogger(__name__)

OPENAI_PREFIX = "/v1/"
JSON_PREFIXES = ("/api/", OPENAI_PREFIX)
# OpenAI's word for a kind of error, by status; its clients choose their exception by the status alone.
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# Their parameter, where it has another name than ours.
OPENAI_PARAMS = {"agent": "model", "question": "messages", "collection": "metadata"}


class TooLarge(InvalidInput):
    code = "too_large"
    status = 413


class Overloaded(Unavailable):
    """More requests wait than the settings allow; `retry_after` is in seconds."""

    code = "overloaded"


class ClientGone(AdaptRAGError):
    """The client closed its connection while the answer was being written."""

    code = "client_gone"
    status = 499


def error_body(code: str, message: str, details: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": {} if details is None else details}}


def openai_body(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """An error body with OpenAI's `type` and `param` beside `code`, `message` and `details`."""
    details = body["error"]["details"]
    param = details.get("field") or next(iter(details.get("fields", {})), None) or ("agent" if "agent" in details else None)
    kind = OPENAI_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": body["error"] | {"type": kind, "param": OPENAI_PARAMS.get(param, param)}}


def body_for(path: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """The error body in the form of the address that it is sent from."""
    return openai_body(status, body) if path.startswith(OPENAI_PREFIX) else body


def error_of(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for any exception. An unexpected one is logged; its text stays in the log."""
    match error:
        case AdaptRAGError():
            refusal_note(error)
            headers = {"Retry-After": str(error.details.get("retry_after", 5))} if error.status == 503 else {}
            return error.status, error_body(error.code, error.message, error.details), headers
        case exceptions.ValidationError():
            return 400, error_body("invalid_input", _first_problem(error.detail), {"fields": error.detail}), {}
        case exceptions.APIException():
            return _framework_error(error)
        case Http404():
            return 404, error_body("not_found", "There is nothing at this address."), {}
        case PermissionDenied():
            return 403, error_body("permission_denied", str(error) or "You may not do this."), {}
        case RequestDataTooBig():
            return 413, error_body("too_large", "The request is larger than is taken here."), {}
        case SuspiciousOperation():
            return 400, error_body("bad_request", "The request is malformed."), {}
    logger.error("request failed", exc_info=error)
    return 500, _unexpected(), {}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """What the REST framework calls when a view raises."""
    from rest_framework.views import set_rollback  # views import the parsers, which import this module

    set_rollback()
    status, body, headers = error_of(error)
    return Response(body_for(context["request"].path_info, status, body), status=status, headers=headers)


def _framework_error(error: exceptions.APIException) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, message, headers, details = error.status_code, str(error.detail), {}, {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    match error:
        case exceptions.Throttled():
            wait = max(1, int(error.wait or 1))
            headers["Retry-After"], details["retry_after"] = str(wait), wait
            return 429, error_body("throttled", f"Too many requests. Try again in {wait} s.", details), headers
        case exceptions.NotAuthenticated():
            code, message = "not_authenticated", "Send a key as 'Authorization: Bearer <key>', or sign in."
        case exceptions.AuthenticationFailed():
            code = "authentication_failed"
        case exceptions.ParseError():
            code = "parse_error"
        case exceptions.MethodNotAllowed():
            code = "method_not_allowed"
        case exceptions.UnsupportedMediaType():
            code = "unsupported_media_type"
        case exceptions.NotFound():
            code = "not_found"
        case _:
            code = str(error.default_code)
    return status, error_body(code, message, details), headers


def _first_problem(detail: Any, path: str = "") -> str:
    """The first of the problems that a serializer found, with the path of its field: `messages[2].role: ...`."""
    if isinstance(detail, dict):
        name, value = next(iter(detail.items()))
        step = f"[{name}]" if isinstance(name, int) else (f".{name}" if path else str(name))
        return _first_problem(value, path if name == "non_field_errors" else path + step)
    if isinstance(detail, list):
        if detail and isinstance(detail[0], dict):
            index, value = next((index, value) for index, value in enumerate(detail) if value)
            return _first_problem(value, f"{path}[{index}]")
        return _first_problem(detail[0] if detail else "invalid", path)
    return f"{path}: {detail}" if path else str(detail)


def _unexpected() -> dict[str, Any]:
    return error_body(
        "internal_error", "Something failed here. The log has the cause under this request id.", {"request_id": request_id()}
    )


# What Django itself refuses: unknown addresses, hosts and forms, and whatever fails outside of a view. ------------------


def _plain(request: HttpRequest, status: int, body: dict[str, Any]) -> HttpResponse:
    return JsonResponse(body_for(request.path_info, status, body), status=status)


def _for_program(request: HttpRequest) -> bool:
    return request.path_info.startswith(JSON_PREFIXES)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _for_program(request):
        return defaults.bad_request(request, exception)
    return _plain(request, 400, error_body("bad_request", "The request is malformed, or its Host is not one of this site's."))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _for_program(request):
        return defaults.permission_denied(request, exception)
    return _plain(request, 403, error_body("permission_denied", str(exception) or "You may not do this."))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if not _for_program(request):
        return csrf.csrf_failure(request, reason)
    return _plain(request, 403, error_body("permission_denied", f"CSRF: {reason} Send a key, or X-CSRFToken with the session."))


@csrf_exempt  # it changes nothing, and an address that is not there should say so to everyone
def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _for_program(request):
        return defaults.page_not_found(request, exception)
    return _plain(
        request, 404, error_body("not_found", f"There is nothing at {request.path}. GET /api/docs lists what there is.")
    )


def server_error(request: HttpRequest) -> HttpResponse:
    if not _for_program(request):
        return defaults.server_error(request)
    return _plain(request, 500, _unexpected())


def status_words(status: int) -> str:
    return "Client closed the connection" if status == 499 else HTTPStatus(status).phrase
