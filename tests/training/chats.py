"""Small things to train on: facts about made-up towns, and the model folders of tests."""

from __future__ import annotations

from agents.models import AgentVariant
from rewards.models import Interaction, Reward

TOWNS = ["Arnsberg", "Belmonte", "Corvara", "Dornach", "Eskilton", "Farnley", "Grimaud", "Harlow", "Ipsden", "Jarnac"]


def passage(town: str, number: int) -> str:
    return f"{town} is a town on the river Lune. Its bridge was built in {1700 + number} by the mason {town[:3]}bert Stone."


def chat(town: str, number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Answer the question from the passages. Be short and exact."},
        {
            "role": "user",
            "content": f"Passages:\n\n[1] {town}\n{passage(town, number)}\n\nQuestion: When was its bridge built?",
        },
        {"role": "assistant", "content": str(1700 + number)},
    ]


def chats(count: int) -> list[list[dict[str, str]]]:
    return [chat(f"{TOWNS[number % 10]} {number}", number) for number in range(count)]


def uneven(count: int) -> list[list[dict[str, str]]]:
    """Chats of which every fourth has a passage several times as long."""
    rows = chats(count)
    for row in rows[::4]:
        row[1]["content"] = row[1]["content"].replace("Its bridge", "It has a market. " * 30 + "Its bridge")
    return rows


def logged(variant: AgentVariant, question: str, answer: str, *, reward: float | None = None, correction: str = "", **fields):
    """An interaction with one passage in its prompt and another beside it, rated where a reward is given."""
    sources = [
        {"chunk_id": 1, "document_id": 1, "document": "towns.md", "text": passage("Arnsberg", 1), "used": True},
        {"chunk_id": 2, "document_id": 1, "document": "towns.md", "text": "Not in the prompt.", "used": False},
    ]
    row = Interaction.objects.create(
        question=question, answer=answer, category="factual", variant=variant, **{"sources": sources} | fields
    )
    if reward is not None:
        Reward.objects.create(interaction=row, rater="anna", value=reward, correction=correction)
    return row
