"""The log of what was asked and answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db import connection, transaction

from adaptrag.common.prepared import Prepared, PreparedInsert
from agents.models import AgentVariant
from rewards.models import Interaction, LearningClock, QuestionVector
from rewards.services.promotions import canary_looked_after
from rewards.services.rollup import asked, changes_note
from rewards.services.turn import write_turn

TOGETHER_MOST = 64  # interactions in one transaction

_ticks = Prepared(lambda: LearningClock.objects.filter(pk=LearningClock.ONLY).values_list("ticks").order_by())
_insert_interactions, _insert_vectors = PreparedInsert(Interaction), PreparedInsert(QuestionVector)


def interaction_log(*, vector: np.ndarray | None = None, **fields: Any) -> Interaction:
    """Log one interaction and what it adds to the sums of the log; it is on disk when this returns. `fields` are those of
    Interaction; the router gives its clock.

    vector: the question's embedding, float32, where the policy looked at it."""
    if "clock" not in fields:
        fields["clock"] = next((ticks for (ticks,) in _ticks()), 0)
    entry = _Entry(Interaction(**fields), vector)
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        _write_with_others(entry)
    else:
        _write([entry])
    interaction = entry.interaction
    if interaction.state == Interaction.State.FAILED and interaction.variant.state == AgentVariant.State.CANARY:
        canary_looked_after(interaction.variant, traffic=True)
    return interaction


class _Entry:
    def __init__(self, interaction: Interaction, vector: np.ndarray | None) -> None:
        self.interaction, self.vector = interaction, vector
        self.written = False
        self.error: Exception | None = None

    @property
    def settled(self) -> bool:
        return self.written or self.error is not None


_waiting: deque[_Entry] = deque()
_writing = threading.Lock()


def _write_with_others(entry: _Entry) -> None:
    """SQLite has one writer at a time, and each commit waits for the disk: whoever gets the turn writes for all that wait.

    With 16 callers at once this took one web process from 82 to 121 questions/s (benchmarks/serving.py)."""
    _waiting.append(entry)
    with _writing:
        while not entry.settled:
            batch = [_waiting.popleft() for _ in range(min(len(_waiting), TOGETHER_MOST))]
            try:
                _write_batch(batch)
            finally:
                _waiting.extendleft(one for one in reversed(batch) if not one.settled)
    if entry.error is not None:
        raise entry.error


def _write_batch(batch: list[_Entry]) -> None:
    """One that can't be written takes no other with it."""
    try:
        _write(batch)
    except Exception as error:
        if len(batch) == 1:
            batch[0].error = error
            return
        for one in batch:
            _write_batch([one])


def _write(entries: Sequence[_Entry]) -> None:
    with write_turn(), transaction.atomic():
        _insert_interactions(*(entry.interaction for entry in entries))
        vectors = [
            QuestionVector(pk=entry.interaction.pk, embedding=entry.vector.astype("<f4").tobytes())
            for entry in entries
            if entry.vector is not None
        ]
        if vectors:
            _insert_vectors(*vectors)
        changes_note(asked(entry.interaction for entry in entries))
    for entry in entries:
        entry.written = True
