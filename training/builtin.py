"""Questions over the handbook with their answers: what can be trained on before anybody has asked anything."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

from django.conf import settings

from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest
from agents.strategies.lora_rag import LoraRAG
from agents.strategies.prompt import answer_messages
from training.sft import Candidate, Chat

FILE = Path(__file__).parent / "data" / "handbook_questions.jsonl"


def builtin_candidates() -> list[Candidate]:
    """Each question with the section of the handbook that answers it."""
    with FILE.open() as handle:
        rows = [json.loads(line) for line in handle]
    return [
        Candidate(
            key=row["id"],
            question=row["question"],
            passages=1,
            prompt=partial(_prompt, row),
            corrections=(row["answer"],),
        )
        for row in rows
    ]


def _prompt(row: dict[str, Any], passages: int) -> Chat:
    passage = Passage(
        chunk_id=0, document_id=0, document=row["page"], heading=row["section"], text=section(row["page"], row["section"]),
        score=0.0, rank=1, retriever="",
    )  # fmt: skip
    request = AgentRequest(question=row["question"], collection=None)
    return [message.as_dict() for message in answer_messages(request, [passage], LoraRAG.Parameters())]


@cache
def section(page: str, heading: str) -> str:
    """Text of a section of a page under docs/. Raises KeyError where the page has no such heading."""
    text = (Path(settings.BASE_DIR) / "docs" / page).read_text()
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        if title.strip() == heading:
            return " ".join(body.split())
    raise KeyError(f"docs/{page} has no section {heading!r}")
