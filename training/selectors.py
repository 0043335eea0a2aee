"""Reading datasets, runs and what they are made of."""

from __future__ import annotations

from rewards.models import Interaction
from training.models import SFTExample, TrainingRun


def interactions_behind(run: TrainingRun) -> list[Interaction]:
    """The logged questions that a run was trained on; the built-in ones have none."""
    return list(
        Interaction.objects.filter(sft_examples__dataset=run.dataset_id, sft_examples__split=SFTExample.Split.TRAIN).distinct()
    )
