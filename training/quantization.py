"""Quantization: a model, with an adapter merged into it, becomes a build folder of safetensors. Knows no ORM.

The merge is done in fp32 or bf16 and saved before anything runs: weights that bitsandbytes has repacked for an inference can't
be saved any more. What was measured of each mode: docs/decisions/0014-quantization.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.llm.adapters import read_adapter
from agents.llm.builds import Build, write_build
from training.errors import QuantizationFailed

Chats = Sequence[Sequence[dict[str, str]]]
PRECISIONS = ("fp32", "bf16")
# What of a model's folder goes along: tokenizer, chat template, how it generates.
_BESIDE = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A way to keep weights. `make(merged, out, chats)` writes them; chats are examples with answers to calibrate by.

    `fits(config)`: whether a model's architecture can have it, None for every causal model; `models` says which can, in words.
    """

    name: str
    title: str
    make: Callable[[Path, Path, Chats], None]
    fits: Callable[[Any], bool] | None = None
    models: str = "any causal model of transformers"


def quantize(
    base: Path,
    adapter: Path | None,
    mode: str,
    out: Path,
    *,
    work: Path,
    precision: str = "fp32",
    name: str = "",
    chats: Chats = (),
) -> Path:
    """Merge, build into `out`, and return the folder of the merged model, which lies in `work` unless it is `base` itself.

    `out` and what lies in `work` appear whole or not at all; what is there already is taken as it is. `name` is noted as the
    model's; `chats`, with answers, are what a mode may calibrate by. Raises QuantizationFailed.
    """
    if mode not in MODES:
        raise QuantizationFailed(f"There is no mode {mode!r}; there are {', '.join(MODES)}.")
    if precision not in PRECISIONS:
        raise QuantizationFailed(f"A merge is done in {' or '.join(PRECISIONS)}, not in {precision!r}.")
    check_family(base, mode)
    merged = merge(base, adapter, work / "merged", precision)
    if not out.is_dir():
        with _aside(out) as folder:
            MODES[mode].make(merged, folder, chats)
            _copy_beside(base, folder)
            write_build(folder, Build(mode=mode, base_model=name or str(base), precision=precision))
    return merged


def check_family(base: Path, mode: str) -> None:
    """Raises QuantizationFailed, naming the modes that do, where a mode does not know the model's architecture."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base).get_text_config()
    able = [other.name for other in MODES.values() if other.fits is None or other.fits(config)]
    if mode not in able:
        raise QuantizationFailed(
            f"Mode {mode} is for {MODES[mode].models}; {base.name} is a {config.model_type}. Modes for it: {', '.join(able)}."
        )


def merge(base: Path, adapter: Path | None, out: Path, precision: str) -> Path:
    """The model with the adapter added to its weights, saved. `base` itself where there is nothing to add or to round."""
    if adapter is None and precision == "fp32":
        return base
    if out.is_dir():
        return out
    import torch

    model = _loaded(base, torch.bfloat16 if precision == "bf16" else torch.float32)
    if adapter is not None:
        from peft import PeftModel

        read_adapter(adapter.name, adapter)  # says in words what is no plain adapter of safetensors
        try:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
        except (RuntimeError, ValueError) as error:
            raise QuantizationFailed(f"The adapter in {adapter} does not fit the model in {base}: {error}") from error
    with _aside(out) as folder:
        model.save_pretrained(folder)
        _copy_beside(base, folder)
    return out


def _plain(dtype: str) -> Callable[[Path, Path, Chats], None]:
    def make(merged: Path, out: Path, chats: Chats) -> None:
        import torch

        _loaded(merged, getattr(torch, dtype)).save_pretrained(out)

    return make


def _bitsandbytes(**options: Any) -> Callable[[Path, Path, Chats], None]:
    def make(merged: Path, out: Path, chats: Chats) -> None:
        import torch
        from transformers import BitsAndBytesConfig

        if "load_in_4bit" in options:
            config = BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=torch.float32)
        else:
            config = BitsAndBytesConfig(**options)
        _loaded(merged, torch.float32, quantization_config=config).save_pretrained(out)

    return make


def _cpu8(merged: Path, out: Path, chats: Chats) -> None:
    from training.encoding import Encoder
    from training.rounding import build

    encoder = Encoder(merged)
    encoded = [encoder.encode(chat) for chat in chats]
    build(merged, out, [one.prompt + one.answer for one in encoded])


def _fits_cpu8(config: Any) -> bool:
    from agents.llm.cpu8 import fits

    return fits(config)


def _loaded(folder: Path, dtype: Any, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=dtype, **options).eval()
    except Exception as error:  # whatever a foreign folder makes transformers raise
        raise QuantizationFailed(f"The model in {folder} can't be loaded: {error}") from error


def _copy_beside(base: Path, out: Path) -> None:
    for pattern in _BESIDE:
        for file in base.glob(pattern):
            if not (out / file.name).exists():
                shutil.copyfile(file, out / file.name)


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well; nothing stays otherwise, nor of a killed one."""
    folder = out.with_name(f".{out.name}-unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            name="cpu8",
            title="for the CPU, 8 bits and 4",
            make=_cpu8,
            fits=_fits_cpu8,
            models="Llama models whose sizes are multiples of 64",
        ),
        Mode(name="fp32", title="32-bit floats", make=_plain("float32")),
        Mode(name="bf16", title="16-bit floats (bfloat16)", make=_plain("bfloat16")),
        Mode(name="int8", title="bitsandbytes, 8 bits", make=_bitsandbytes(load_in_8bit=True)),
        Mode(
            name="nf4",
            title="bitsandbytes, 4 bits (NF4)",
            make=_bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        ),
    )
}
