"""Every answer is JSON, whatever a client's Accept header prefers."""

from __future__ import annotations

from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request


class AlwaysFirst(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: list) -> Any:
        media_type = (request.content_type or "").split(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == media_type), None)

    def select_renderer(self, request: Request, renderers: list, format_suffix: str | None = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type
