"""The log out of the database: one interaction a line, its ratings on the lines after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from rewards.models import Interaction
from rewards.services.log_format import interaction_line, reward_line

Progress = Callable[[float, str], Any]
CHUNK = 500  # interactions in memory at a time; with their passages about 10 kB each


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    interactions: int
    rewards: int


def log_export(handle: TextIO, progress: Progress | None = None) -> ExportResult:
    """Write every interaction and reward in the form of `rewards.services.log_format`, oldest first."""
    total = Interaction.objects.count()
    interactions = rewards = 0
    rows = (
        Interaction.objects.order_by("created_at", "pk")
        .select_related("variant", "collection", "asked_by")
        .prefetch_related("rewards")
    )
    for interaction in rows.iterator(chunk_size=CHUNK):
        handle.write(interaction_line(interaction) + "\n")
        interactions += 1
        for reward in sorted(interaction.rewards.all(), key=lambda reward: reward.pk):
            handle.write(reward_line(reward) + "\n")
            rewards += 1
        if progress and interactions % CHUNK == 0:
            progress(min(interactions / max(total, 1), 0.999), f"{interactions:,} interactions")
    if progress:
        progress(1.0, f"{interactions:,} interactions")
    return ExportResult(interactions=interactions, rewards=rewards)
