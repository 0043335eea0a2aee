"""A training's progress: tokens, time, the loss curve, and which checkpoints are whole."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingFailed
from training.recipe import OnPoint, Point, Recipe

COMPLETE = "complete"  # a file in a checkpoint that was written to its end


class Watch:
    """Counts tokens and time, and tells of every step. seconds: of the whole loop, validation and checkpoints included."""

    def __init__(self, recipe: Recipe, on_point: OnPoint, on_checkpoint: Callable[[int], None]) -> None:
        self._recipe, self._on_point, self._on_checkpoint = recipe, on_point, on_checkpoint
        self.points: list[Point] = []
        self.tokens = 0
        self.tokens_of: Sequence[int] = ()  # each step, those of all processes
        self._began = self._ended = 0.0
        self._started_at = 0

    @property
    def seconds(self) -> float:
        return (self._ended or time.perf_counter()) - self._began

    def tell(self, step: int, *, train_loss: float | None = None, validation_loss: float | None = None) -> None:
        loss = train_loss if train_loss is not None else validation_loss
        if loss is None or not math.isfinite(loss):
            raise TrainingFailed(
                f"The loss is no number any more at step {step} (learning rate {self._recipe.learning_rate:g}). Start another "
                "training with a lower --learning-rate: resumed, this one would go the same way."
            )
        done = step - self._started_at
        seconds = self.seconds
        left = (self._recipe.steps - step) * seconds / done if done else 0.0
        point = Point(
            step=step,
            train_loss=train_loss,
            validation_loss=validation_loss,
            tokens_per_second=self.tokens / seconds,
            seconds_left=left,
        )
        self.points.append(point)
        self._on_point(point)

    def callback(self) -> Any:
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch._started_at, watch._began = state.global_step, time.perf_counter()

            def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch._ended = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch.tokens += watch.tokens_of[state.global_step - 1]

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if "loss" in (logs or {}) and state.is_world_process_zero:
                    watch.tell(state.global_step, train_loss=logs["loss"])

            def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    watch.tell(state.global_step, validation_loss=metrics["eval_loss"])

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
                    watch._on_checkpoint(state.global_step)

        return Callback()
