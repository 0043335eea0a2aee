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
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training.encoding import Encoded, Encoder, collate, schedule
from training.errors import NothingToLearn, TrainingFailed
from training.recipe import PRECISIONS, OnPoint, Outcome, Recipe
from training.trainer import lora_trainer
from training.watch import COMPLETE, Watch


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
    recipe = replace(recipe, micro=math.gcd(recipe.batch, recipe.micro), learning_rate=recipe.rate(encoder.width))
    try:
        return _run(model, kept, held_out, out, recipe, on_point, on_checkpoint, skipped=len(encoded) - len(kept))
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for memory that runs out on the CPU.
        if isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise TrainingFailed(_too_large(recipe, list(map(len, kept)))) from error
        raise


def _too_large(recipe: Recipe, lengths: list[int]) -> str:
    rows = schedule(lengths, steps=recipe.steps, batch=recipe.batch, micro=recipe.micro, seed=recipe.seed)
    count, longest = max(((len(row), max(lengths[index] for index in row)) for row in rows), key=math.prod)
    if count == 1:
        return (
            f"Memory ran out; the largest portion is one example of {longest} tokens. Start another training with shorter "
            "examples (prepare_sft_data --max-tokens), or resume with --qlora on a GPU."
        )
    return (
        f"Memory ran out; the largest portion is {count} examples of up to {longest} tokens. Resume with --micro "
        f"{recipe.micro // 2} (the result stays the same), or on a GPU with --qlora."
    )


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
    watch = Watch(recipe, on_point, on_checkpoint)
    trainer = lora_trainer(network, train, validation, out / "checkpoints", recipe, watch)
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
        learning_rate=recipe.learning_rate,
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

    from training.fused import fuse

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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft calls it by its old name
        network = get_peft_model(base, config)
    if not torch.cuda.is_available():  # the Trainer moves the network to a GPU later
        fuse(network)
    return network


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
