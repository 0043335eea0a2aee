"""The log of what was asked and answered."""

from __future__ import annotations

from typing import Any

from rewards.models import Interaction
from rewards.services.turn import write_turn


def interaction_log(**fields: Any) -> Interaction:
    """Log one interaction: a single INSERT. `fields` are those of Interaction."""
    interaction = Interaction(**fields)
    with write_turn():
        interaction.save(force_insert=True)
    return interaction
