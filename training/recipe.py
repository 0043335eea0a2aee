"""What a training is asked to do, what it tells of on the way, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PRECISIONS = ("auto", "fp32", "bf16")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. `alpha` None: twice r. `plus` is LoRA+'s ratio of the learning rates of B and A (Hayou et al., 2024).

    `learning_rate` None: by the width of the model and the adapter's scale, see `rate`.

    A step's `batch` examples are computed in batch / micro portions: `micro` at once on average, long ones fewer.

    `every`: steps between validations and checkpoints, 0 for a third of the run (at most 25). `patience`: validations without
    a better loss after which it stops; 0 never. `threads` 0: measured.
    """

    steps: int = 15
    r: int = 8
    alpha: float | None = None
    learning_rate: float | None = None
    plus: float = 1.0
    rank_stabilized: bool = False
    batch: int = 8
    micro: int = 2
    warmup: float = 0.1
    schedule: str = "cosine"
    dropout: float = 0.0
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    quantized: bool = False
    every: int = 0
    patience: int = 3
    threads: int = 0

    def pace(self, step: int) -> float:
        """Share of the learning rate at a step, counted from 0. It is never 0: of 15 steps none is given away."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm))) / 2

    @property
    def scale(self) -> float:
        """By which the product of B and A is multiplied (Hu et al., 2021; rank-stabilized: Kalajdzievski, 2023)."""
        alpha = self.alpha if self.alpha is not None else 2 * self.r
        return alpha / (math.sqrt(self.r) if self.rank_stabilized else self.r)

    def rate(self, width: int) -> float:
        """The learning rate for a model with hidden states of this width: the narrower, the higher.

        Schulman et al., "LoRA Without Regret" (2025), have 5e-4 (2000 / width)^0.781 for models of the Llama family, for every
        rank r at a scale of 32 / r. Another scale takes so much more or less, because B begins at 0.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return 5e-4 * (2000 / width) ** 0.781 * 32 / (self.scale * self.r)

    def spacing(self) -> int:
        return self.every or max(1, min(25, self.steps // 3))


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place of the loss curve. Exactly one of the losses is given, in nats a token."""

    step: int
    train_loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float = 0.0
    seconds_left: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`steps` done (fewer than asked where it stopped early), `best_step` whose weights were kept; tokens without padding."""

    path: Path
    steps: int
    best_step: int
    train_loss: float
    validation_loss: float | None
    tokens: int
    tokens_per_second: float
    peak_memory_bytes: int
    seconds: float
    precision: str
    learning_rate: float
    trainable_parameters: int
    skipped: int
    points: list[Point] = field(default_factory=list)


OnPoint = Callable[[Point], None]
