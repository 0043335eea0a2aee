"""transformers' Trainer for LoRA: batches of like length, the same whatever the processes, and a loss of the answers alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from training.encoding import IGNORED, Encoded, collate, schedule
from training.errors import TrainingFailed
from training.recipe import Recipe
from training.watch import Watch


def lora_trainer(
    network: Any, train: list[Encoded], validation: list[Encoded], folder: Path, recipe: Recipe, watch: Watch
) -> Any:
    """A Trainer of the adapter; checkpoints go to `folder`. Raises TrainingFailed where the processes can't share a step."""
    import torch
    from peft.optimizers import create_loraplus_optimizer
    from torch.utils.data import DataLoader
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro_steps = recipe.batch // recipe.micro
    if micro_steps % processes:
        raise TrainingFailed(
            f"A step of {recipe.batch} examples in portions of {recipe.micro} can't be shared by {processes} processes evenly. "
            "Choose --batch and --micro so that batch / micro is a multiple of the processes."
        )
    every = recipe.spacing()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        per_device_train_batch_size=recipe.micro,
        per_device_eval_batch_size=recipe.micro,
        gradient_accumulation_steps=micro_steps // processes,
        max_grad_norm=recipe.clip,
        eval_strategy="steps" if validation else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=3,
        load_best_model_at_end=bool(validation),
        metric_for_best_model="eval_loss" if validation else None,
        greater_is_better=False if validation else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=recipe.seed,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        prediction_loss_only=True,
        label_names=["labels"],
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        restore_callback_states_from_checkpoint=True,  # how long validation has not improved
        ddp_backend=None if torch.cuda.is_available() or processes == 1 else "gloo",
    )

    lengths = [len(one) for one in train]
    rows = list(schedule(lengths, steps=recipe.steps, batch=recipe.batch, micro=recipe.micro, seed=recipe.seed))
    watch.tokens_of = [
        sum(lengths[index] for row in rows[first : first + micro_steps] for index in row)
        for first in range(0, len(rows), micro_steps)
    ]

    class LoraTrainer(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            # Shared here: accelerate wants batches of one size.
            mine = rows[self.accelerator.process_index :: processes]
            return DataLoader(train, batch_sampler=_Listed(mine), collate_fn=collate)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
            order = sorted(range(len(validation)), key=lambda index: len(validation[index]))
            rows = [order[first : first + recipe.micro] for first in range(0, len(order), recipe.micro)]
            return self.accelerator.prepare(DataLoader(validation, batch_sampler=_Listed(rows), collate_fn=collate))

        def create_optimizer(self, model: Any = None) -> Any:
            if self.optimizer is None:
                self.optimizer = create_loraplus_optimizer(
                    self.model, torch.optim.AdamW, lr=recipe.learning_rate, loraplus_lr_ratio=recipe.plus
                )
            return self.optimizer

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.lr_scheduler is None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, recipe.pace)
            return self.lr_scheduler

    callbacks: list[Any] = [watch.callback()]
    if validation and recipe.patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.patience))
    trainer = LoraTrainer(
        model=network,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation or None,
        compute_loss_func=answer_loss,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def answer_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Cross-entropy of the answers' tokens, in nats: their sum over `num_items_in_batch`, or their mean."""
    from torch.nn.functional import cross_entropy

    logits = outputs.logits[:, :-1].float()
    targets = labels[:, -logits.shape[1] :]
    total = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else targets.ne(IGNORED).sum())


class _Listed:
    """A batch sampler over fixed lists."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows
        self.batch_size = len(rows[0]) if rows else 1
        self.drop_last = False

    def __iter__(self) -> Any:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
