"""What an image shows, in words, by a vision model behind the OpenAI API."""

from __future__ import annotations

import base64

from django.conf import settings

from agents.errors import ChatModelUnavailable
from agents.llm.base import ChatModel, Message
from agents.llm.factory import chat_model

DESCRIBE = (
    "Describe this image for somebody who searches for it: what it is (photo, chart, diagram, scan), what it shows, "
    "names, figures and relations in it. Facts only, at most 120 words."
)
MAX_TOKENS = 300


def data_url(data: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def describe(data: bytes, content_type: str) -> str:
    """Raises ChatModelUnavailable where ADAPTRAG_VISION_MODEL can't be asked."""
    message = Message(role="user", content=DESCRIBE, images=(data_url(data, content_type),))
    return _vision_model().complete([message], max_tokens=MAX_TOKENS).text.strip()


def _vision_model() -> ChatModel:
    if not settings.ADAPTRAG_VISION_MODEL:
        raise ChatModelUnavailable("No vision model is set. Name one in ADAPTRAG_VISION_MODEL.")
    return chat_model("openai_compatible", settings.ADAPTRAG_VISION_MODEL, settings.ADAPTRAG_VISION_OPTIONS)
