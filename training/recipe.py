"""What a training is asked to do, what it tells of on the way, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. `alpha` None: twice r. `plus` is LoRA+'s ratio of the learning rates of B and A (Hayou et al., 2024).

    `every`: steps between validations and checkpoints, 0 for a third of the run (at most 25). `patience`: validations without
    a better loss after which it stops; 0 never. `threads` 0: measured.
    """

    steps: int = 15
    r: int = 8
    alpha: float | None = None
    learning_rate: float = 1e-3
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
    trainable_parameters: int
    skipped: int
    points: list[Point] = field(default_factory=list)


OnPoint = Callable[[Point], None]
