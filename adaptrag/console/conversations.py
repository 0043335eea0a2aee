"""What the chat page reads: conversations of a user, their turns, and how long an answer takes here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from adaptrag.console.wording import why
from adaptrag.orchestrator import MESSAGES_CHARS_MAX
from agents.llm.base import Message
from rewards.models import Interaction, Reward
from rewards.selectors import source_link

SESSION_PREFIX = "chat-"  # marks the interactions that belong to the chat page
_RECENT_ROWS = 400
_LATENCY_ROWS = 200
_TURNS_SENT = 6  # earlier questions that go with a follow-up; agents use fewer


@dataclass(frozen=True, kw_only=True)
class Conversation:
    id: UUID
    title: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with its answer, ready for the template."""

    interaction: Interaction
    why: str
    sources: list[dict[str, Any]]
    rating: Reward | None


def session_name(conversation: UUID) -> str:
    return f"{SESSION_PREFIX}{conversation}"


def conversations(user: Any, limit: int = 30) -> list[Conversation]:
    """A user's conversations on the chat page, the latest first; each is called by its first question."""
    rows = (
        Interaction.objects.filter(asked_by=user, session__startswith=SESSION_PREFIX)
        .order_by("-created_at")
        .values_list("session", "question", "created_at")[:_RECENT_ROWS]
    )
    found: dict[str, Conversation] = {}
    for session, question, created_at in rows:
        latest = found[session].at if session in found else created_at
        try:
            conversation = UUID(session.removeprefix(SESSION_PREFIX))
        except ValueError:
            continue
        found[session] = Conversation(id=conversation, title=question[:120], at=latest)
    return list(found.values())[:limit]


def turns(user: Any, conversation: UUID, rater: str) -> list[Turn]:
    """The questions that a user asked in a conversation, oldest first."""
    rows = (
        Interaction.objects.filter(asked_by=user, session=session_name(conversation))
        .select_related("variant")
        .order_by("created_at")
    )
    interactions = list(rows)
    ratings = {
        reward.interaction_id: reward
        for reward in Reward.objects.filter(interaction__in=interactions, source=Reward.Source.USER, rater=rater)
    }
    return [turn(interaction, ratings.get(interaction.pk)) for interaction in interactions]


def turn(interaction: Interaction, rating: Reward | None) -> Turn:
    sources = [
        source
        | {
            "number": number,
            "used": source.get("used", True),
            "url": source_link(source, interaction.pk),
            "outside": bool(source.get("url")),
        }
        for number, source in enumerate(interaction.sources, start=1)
    ]
    return Turn(interaction=interaction, why=why(interaction), sources=sources, rating=rating)


def earlier_messages(user: Any, conversation: UUID) -> tuple[Message, ...]:
    """The last answered turns as chat messages, oldest first, as many as go with a question: the context of a follow-up."""
    rows = (
        Interaction.objects.filter(asked_by=user, session=session_name(conversation), state=Interaction.State.ANSWERED)
        .order_by("-created_at")
        .values_list("question", "answer")[:_TURNS_SENT]
    )
    kept: list[Message] = []
    room = MESSAGES_CHARS_MAX
    for question, answer in rows:
        room -= len(question) + len(answer)
        if room < 0:
            break
        kept = [Message(role="user", content=question), Message(role="assistant", content=answer), *kept]
    return tuple(kept)


def expected_seconds() -> dict[str, tuple[float, int]]:
    """Median seconds of the latest answers and how many they are, by agent name and overall ("")."""
    rows = (
        Interaction.objects.filter(state=Interaction.State.ANSWERED)
        .exclude(mode=Interaction.Mode.IMPORTED)
        .order_by("-created_at")
        .values_list("variant__name", "latency_ms")[:_LATENCY_ROWS]
    )
    latencies: dict[str, list[float]] = {}
    for name, latency in rows:
        latencies.setdefault("", []).append(latency)
        latencies.setdefault(name, []).append(latency)
    return {name: (statistics.median(values) / 1000, len(values)) for name, values in latencies.items()}
