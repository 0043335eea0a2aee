"""Filters of the console's templates."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django import template
from django.utils.safestring import SafeString

from adaptrag.console import richtext, wording
from agents.ingestion.tables import CELL
from agents.models import Chunk
from rewards.models import Interaction

register = template.Library()


@register.filter
def answer_html(interaction: Interaction) -> SafeString:
    """The answer with a little Markdown; `[n]` leads to the turn's source n, which is what stood as [n] in the prompt."""
    used = sum(source.get("used", True) for source in interaction.sources)
    return richtext.answer_html(interaction.answer, used, f"source-{interaction.pk}")


@register.filter
def marked(text: str, question: str) -> SafeString:
    return richtext.marked(text, question)


@register.filter
def lacks_heading(chunk: Chunk) -> bool:
    """Whether a passage's heading is not to be read in its first lines anyway."""
    return bool(chunk.heading) and chunk.heading.rsplit(" > ", 1)[-1] not in chunk.text[:300]


@register.filter
def seconds(milliseconds: float) -> str:
    return wording.seconds(milliseconds / 1000)


@register.filter
def duration(value: float) -> str:
    """Seconds in words."""
    return wording.seconds(value)


@register.filter(name="json")
def as_json(value: Any) -> str:
    """For a data attribute: the template escapes it like any text."""
    return json.dumps(value)


@register.filter
def ago(at: datetime) -> str:
    return wording.ago(at)


@register.filter
def share(value: float) -> str:
    return wording.share(value)


@register.filter
def percent(value: float) -> str:
    """0.5 -> "50.00", for widths in CSS."""
    return f"{100 * value:.2f}"


@register.filter
def get(values: dict[str, Any], key: str) -> Any:
    return values.get(key)


@register.filter
def place(passage: Chunk | dict[str, Any]) -> str:
    """Where a chunk, or a source as it was logged, stands in its document."""
    if isinstance(passage, Chunk):
        return wording.place(passage.page, passage.place)
    return wording.place(passage.get("page"), passage.get("place") or {})


@register.filter
def table_rows(chunk: Chunk) -> list[list[str]]:
    """The cells of a passage that holds rows of a table, its header first; nothing for other passages."""
    return [line.split(CELL) for line in chunk.text.splitlines()] if chunk.kind == Chunk.Kind.ROWS else []
