"""LoRA (Hu et al., 2021) on attention and MLP layers: encoded examples in, an adapter folder and figures out. Knows no ORM.

The loss counts answers only, and logits are computed of their places only. What was measured, and the recipe that came of it:
docs/decisions/0010-training.md.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from training.encoding import IGNORED, Encoded, Encoder, collate, schedule
from training.errors import NothingToLearn, TrainingFailed

COMPLETE = "complete"  # a file in a checkpoint that was written to its end
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


def train_lora(
    model: Path,
    train: Sequence[Sequence[dict[str, str]]],
    validation: Sequence[Sequence[dict[str, str]]],
    out: Path,
    recipe: Recipe,
    *,
    on_point: OnPoint = lambda point: None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Train on chats whose last message is the answer. `out` gets `checkpoints/` and, at the end, `adapter/`.

    Goes on from the newest whole checkpoint in `out`. What the callbacks raise ends it; the checkpoints stay.
    Raises NothingToLearn, TrainingFailed.
    """
    encoder = Encoder(model)
    encoded = [encoder.encode(messages) for messages in train]
    kept = [one for one in encoded if len(one) <= encoder.window]
    held_out = [one for one in map(encoder.encode, validation) if len(one) <= encoder.window]
    if not kept:
        raise NothingToLearn(
            f"None of the {len(encoded)} training examples fits the model's window of {encoder.window} tokens. "
            "Prepare the dataset for this model, with fewer or shorter passages."
        )
    recipe = replace(recipe, micro=math.gcd(recipe.batch, recipe.micro))
    try:
        return _run(model, kept, held_out, out, recipe, on_point, on_checkpoint, skipped=len(encoded) - len(kept))
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for memory that runs out on the CPU.
        if isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise TrainingFailed(
                f"Memory ran out with {recipe.micro} examples of up to {max(map(len, kept))} tokens at once. {_smaller(recipe)}"
            ) from error
        raise


def _smaller(recipe: Recipe) -> str:
    if recipe.micro > 1:
        return f"Resume with --micro {recipe.micro // 2} (the result stays the same), or on a GPU with --qlora."
    return "Resume with --qlora on a GPU, or start another with shorter examples (prepare_sft_data --max-tokens)."


def _run(
    model: Path,
    train: list[Encoded],
    validation: list[Encoded],
    out: Path,
    recipe: Recipe,
    on_point: OnPoint,
    on_checkpoint: Callable[[int], None],
    skipped: int,
) -> Outcome:
    import torch
    from transformers import set_seed
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    began = time.monotonic()
    set_seed(recipe.seed)
    precision = precision_for(recipe.precision)
    network = _network(model, recipe, precision)
    if not torch.cuda.is_available():
        torch.set_num_threads(recipe.threads or _fastest_threads(network, train))
    watch = _Watch(recipe, on_point, on_checkpoint)
    trainer = _trainer(network, train, validation, out / "checkpoints", recipe, watch)
    trainer.train(resume_from_checkpoint=newest_checkpoint(out))
    best = trainer.state.best_global_step if validation else trainer.state.global_step
    adapter = out / "adapter"
    if trainer.is_world_process_zero():
        aside = out / f".adapter-{os.getpid()}"
        network.save_pretrained(aside)
        shutil.rmtree(adapter, ignore_errors=True)
        aside.rename(adapter)
    validations = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    outcome = Outcome(
        path=adapter,
        steps=trainer.state.global_step,
        best_step=best or trainer.state.global_step,
        train_loss=sum(losses[-5:]) / len(losses[-5:]) if losses else float("nan"),
        validation_loss=min(validations, default=None),
        tokens=watch.tokens,
        tokens_per_second=watch.tokens / watch.seconds,
        peak_memory_bytes=_peak_memory(),
        seconds=time.monotonic() - began,
        precision=precision,
        trainable_parameters=sum(one.numel() for one in network.parameters() if one.requires_grad),
        skipped=skipped,
        points=watch.points,
    )
    del trainer, network
    gc.collect()
    return outcome


def newest_checkpoint(out: Path) -> str | None:
    """The newest checkpoint that was written to its end; a kill leaves half ones behind."""
    found = [path.parent for path in (out / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def precision_for(wanted: str) -> str:
    """bf16 where the processor multiplies it: without the instructions it is emulated, at a quarter of the speed of fp32."""
    import torch

    if wanted not in PRECISIONS:
        raise TrainingFailed(f"Unknown precision {wanted!r}; there are {', '.join(PRECISIONS)}.")
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _network(model: Path, recipe: Recipe, precision: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if recipe.quantized:
        if not torch.cuda.is_available():
            raise TrainingFailed("QLoRA (--qlora) needs a CUDA GPU; leave it out here: the weights are trained unquantized.")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    try:
        base = AutoModelForCausalLM.from_pretrained(model, **options)
    except Exception as error:  # whatever a foreign folder makes transformers raise
        raise TrainingFailed(f"The model in {model} can't be loaded: {error}") from error
    if recipe.quantized:
        base = prepare_model_for_kbit_training(base)
    base.config.use_cache = False
    config = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.alpha if recipe.alpha is not None else 2 * recipe.r,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.rank_stabilized,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=base.config.model_type == "gpt2",
    )
    return get_peft_model(base, config)


def _trainer(network: Any, train: list[Encoded], validation: list[Encoded], folder: Path, recipe: Recipe, watch: _Watch) -> Any:
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
        lr_scheduler_type=recipe.schedule,
        warmup_steps=math.ceil(recipe.warmup * recipe.steps),
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

    class LoraTrainer(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            rows = list(
                schedule(
                    [len(one) for one in train], steps=recipe.steps, batch=recipe.batch, micro=recipe.micro, seed=recipe.seed
                )
            )
            return self.accelerator.prepare(DataLoader(train, batch_sampler=_Listed(rows), collate_fn=collate))

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

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            watch.tokens += int(inputs["attention_mask"].sum()) * processes
            return super().training_step(model, inputs, num_items_in_batch)

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


class _Watch:
    """Counts tokens and time, and tells of every step. seconds: of the whole loop, validation and checkpoints included."""

    def __init__(self, recipe: Recipe, on_point: OnPoint, on_checkpoint: Callable[[int], None]) -> None:
        self._recipe, self._on_point, self._on_checkpoint = recipe, on_point, on_checkpoint
        self.points: list[Point] = []
        self.tokens = 0
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


def _fastest_threads(network: Any, train: list[Encoded]) -> int:
    """One thread or all cores, by timing a small batch: where other programs compute, one is several times faster."""
    import torch

    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        return 1
    batch = collate(sorted(train, key=len)[:1])
    batch.pop("labels")
    took = {1: math.inf, cores: math.inf}
    with torch.no_grad():
        for _ in range(3):
            for count in took:
                torch.set_num_threads(count)
                begun = time.perf_counter()
                network(**batch)
                took[count] = min(took[count], time.perf_counter() - begun)
    return cores if took[cores] < 0.9 * took[1] else 1


def _peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process since its start."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save_json(path: Path, outcome: Outcome) -> None:
    path.write_text(json.dumps(asdict(outcome) | {"path": str(outcome.path)}))
