"""The queue's side of training, distillation and quantization."""

from __future__ import annotations

from typing import Any

from adaptrag.common.jobs import JobContext, register

TRAIN = "training.train"
DISTIL = "training.distil"
DATASET = "training.dataset"
QUANTIZE = "training.quantization"


def register_handlers() -> None:
    """Called when the app is ready. `long` runs one at a time: two trainings at once take more than twice as long."""
    register(TRAIN, train, heavy=True, queue="long")
    register(QUANTIZE, quantize, heavy=True, queue="long")
    # Waits for the teacher; a local one is loaded in the child.
    register(DISTIL, distil, heavy=True)
    # Its child loads the student's tokenizer.
    register(DATASET, dataset, heavy=True)


def train(context: JobContext) -> dict[str, Any]:
    from training.services import training_execute

    return training_execute(context.payload["run"], context)


def distil(context: JobContext) -> dict[str, Any]:
    from training.services import distillation_execute

    return distillation_execute(context.payload["run"], context)


def dataset(context: JobContext) -> dict[str, Any]:
    from training.services import dataset_execute

    return dataset_execute(context)


def quantize(context: JobContext) -> dict[str, Any]:
    from training.services import quantization_execute

    return quantization_execute(context.payload["report"], context)
