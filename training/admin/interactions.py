"""What training adds to an interaction's page: what learned from it."""

from __future__ import annotations

from typing import Any

from rewards.admin.interactions import PANELS
from rewards.models import Interaction
from training.admin.rows import link
from training.selectors import learned_from


def learned_panel(interaction: Interaction) -> dict[str, Any]:
    return {
        "learned": [
            {"dataset": link(one.dataset), "artifacts": [link(artifact) for artifact in one.artifacts]}
            for one in learned_from(interaction)
        ]
    }


PANELS.append(learned_panel)
