"""The log of what was asked and answered."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import Subquery
from django.db.models.functions import Coalesce

from rewards.models import Interaction, LearningClock, QuestionVector
from rewards.services.rollup import asked, changes_note
from rewards.services.turn import write_turn

_NOW = Coalesce(Subquery(LearningClock.objects.filter(pk=LearningClock.ONLY).values("ticks")[:1]), 0)


def interaction_log(*, vector: np.ndarray | None = None, **fields: Any) -> Interaction:
    """Log one interaction and what it adds to the sums of the log. `fields` are those of Interaction; the
    router gives its clock.

    vector: the question's embedding, float32, where the policy looked at it."""
    interaction = Interaction(**({"clock": _NOW} | fields))
    with write_turn(), transaction.atomic():
        interaction.save(force_insert=True)
        if vector is not None:
            QuestionVector(pk=interaction.pk, embedding=vector.astype("<f4").tobytes()).save(force_insert=True)
        changes_note(asked([interaction]))
    if interaction.clock is _NOW:
        del interaction.clock  # read where somebody asks for it
    return interaction
