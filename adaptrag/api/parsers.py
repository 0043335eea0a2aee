"""JSON as RFC 8259 has it, in UTF-8, of a bounded size."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from adaptrag.api.errors import TooLarge


def _refuse_constant(name: str) -> NoReturn:
    raise ParseError(f"The body holds {name}, which is no JSON value.")


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: dict | None = None) -> Any:
        limit = settings.ADAPTRAG_MAX_BODY_BYTES
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise TooLarge(f"The body is larger than the {limit:,} bytes that are taken here.", limit=limit)
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ParseError(f"The body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}.") from None
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}.") from None
        except RecursionError:
            raise ParseError("The body is nested too deeply.") from None
