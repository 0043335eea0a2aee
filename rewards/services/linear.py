"""Sums that linear policies learn from: changed with each reward under a row lock, or added up from all of them."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from agents.models import AgentVariant
from rewards.bandit.lints import add_reward, question_context
from rewards.models import Interaction, LinearArm, Pull, QuestionVector

BATCH = 500


class Step(NamedTuple):
    """A reward to add to a variant's sums, or, with a negative weight, to take back."""

    interaction: UUID
    variant: int
    value: float
    weight: float


def packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f8").tobytes()).decode()


def unpacked(text: str, *shape: int) -> np.ndarray:
    """A new, writable array."""
    return np.frombuffer(base64.b64decode(text), dtype="<f8").reshape(shape).astype(float)


def question_vector(question: str) -> np.ndarray:
    """The question's embedding, float32, shape (E,)."""
    from agents.retrieval.embedding import embed_query

    return np.asarray(embed_query(question)[0], dtype="<f4")


def vectors_for(interactions: Iterable[UUID]) -> dict[UUID, np.ndarray]:
    """Embeddings of the interactions' questions; those that nobody has needed so far are made and kept."""
    wanted = list(dict.fromkeys(interactions))
    stored = QuestionVector.objects.filter(pk__in=wanted).values_list("pk", "embedding")
    vectors = {pk: np.frombuffer(bytes(blob), dtype="<f4") for pk, blob in stored}
    missing = [pk for pk in wanted if pk not in vectors]
    if missing:
        made = {
            pk: question_vector(question)
            for pk, question in Interaction.objects.filter(pk__in=missing).order_by().values_list("pk", "question")
        }
        rows = [QuestionVector(pk=pk, embedding=vector.tobytes()) for pk, vector in made.items()]
        QuestionVector.objects.bulk_create(rows, ignore_conflicts=True)
        vectors |= made
    return vectors


def arms_move(steps: Sequence[Step], dimensions: int) -> None:
    """Add rewards to their variants' sums, one variant's row locked after the other in the order of their keys."""
    vectors = vectors_for(step.interaction for step in steps)
    by_variant: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        by_variant[step.variant].append(step)
    for variant in sorted(by_variant):
        _add(variant, dimensions, [(step, vectors[step.interaction]) for step in by_variant[variant]])


def _add(variant: int, dimensions: int, steps: list[tuple[Step, np.ndarray]]) -> None:
    length = dimensions + 1
    # The variant's own row is locked where the arm has none yet: two first rewards must not both make it.
    arm = LinearArm.objects.select_for_update().filter(pk=variant).first()
    if arm is None:
        AgentVariant.objects.select_for_update(no_key=True).get(pk=variant)
        arm = LinearArm.objects.select_for_update().filter(pk=variant).first()
    design, response = np.zeros((length, length)), np.zeros(length)
    if arm is not None:
        design, response = unpacked(arm.design, length, length), unpacked(arm.response, length)
    for step, vector in steps:
        add_reward(design, response, question_context(vector, dimensions), step.value, step.weight)
    LinearArm(variant_id=variant, dimensions=dimensions, design=packed(design), response=packed(response)).save(
        force_insert=arm is None, force_update=arm is not None
    )


def arms_rebuild(dimensions: int, progress: Callable[[float, str], Any]) -> None:
    """Linear arms from all pulls; there are none before."""
    pulls = list(Pull.objects.order_by("at", "pk").values_list("pk", "interaction__variant_id", "value", "weight"))
    length = dimensions + 1
    sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for start in range(0, len(pulls), BATCH):
        batch = pulls[start : start + BATCH]
        vectors = vectors_for(pk for pk, *_ in batch)
        for pk, variant, value, weight in batch:
            design, response = sums.setdefault(variant, (np.zeros((length, length)), np.zeros(length)))
            add_reward(design, response, question_context(vectors[pk], dimensions), value, weight)
        progress((start + len(batch)) / len(pulls), f"{start + len(batch):,} of {len(pulls):,} questions")
    LinearArm.objects.bulk_create(
        LinearArm(variant_id=variant, dimensions=dimensions, design=packed(design), response=packed(response))
        for variant, (design, response) in sorted(sums.items())
    )
