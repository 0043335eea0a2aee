"""LoRA adapters beside one copy of their base model: read from safetensors, added row by row to what its layers compute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from agents.errors import ChatModelUnavailable

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """By module name of the base model: A, shape (r, in), and B times its scale, shape (out, r)."""

    name: str
    folder: Path
    modules: dict[str, tuple[Tensor, Tensor]]


class AdapterRows:
    """Which rows of a batch, flattened to tokens, belong to which adapter; None stands for all of them."""

    def __init__(self, adapters: Sequence[object | None], tokens: int) -> None:
        """adapters: one for each row of the batch; tokens: of a row. One of the two counts is 1."""
        import torch

        distinct = list({id(one): one for one in adapters if one is not None}.values())
        everywhere = len(distinct) == 1 and all(one is not None for one in adapters)
        self.groups: list[tuple[object, Tensor | None]] = [
            (one, None if everywhere else torch.tensor([row for row, other in enumerate(adapters) if other is one]))
            for one in distinct
        ]
        self.tokens = tokens


def read_adapter(name: str, folder: Path) -> Adapter:
    """Raises ChatModelUnavailable for a folder that is no LoRA adapter of linear layers, saying what to do."""
    import torch
    from safetensors import safe_open

    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, "pt") as file:
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 not a dict
    except (OSError, ValueError) as error:
        raise ChatModelUnavailable(
            f"There is no adapter in {folder} ({error}). It takes {CONFIG} and {WEIGHTS}.", adapter=name
        ) from error
    unlike = [
        option for option in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias") if config.get(option)
    ]
    strange = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if config.get("peft_type") != "LORA" or unlike or strange:
        what = ", ".join([*unlike, *strange[:1]]) or config.get("peft_type")
        raise ChatModelUnavailable(
            f"The adapter in {folder} is more than LoRA of linear layers ({what}). Merge it into its model and serve that.",
            adapter=name,
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    modules = {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            pair = tensors[key], tensors[f"{module}.lora_B.weight"] * scale
            if not all(bool(torch.isfinite(part).all()) for part in pair):
                raise ChatModelUnavailable(f"The adapter in {folder} holds values that are no numbers.", adapter=name)
            modules[module.removeprefix(_PREFIX)] = pair
    return Adapter(name=name, folder=folder, modules=modules)


def fits(adapter: Adapter, shapes: dict[str, tuple[int, int]]) -> None:
    """shapes: (in, out) by module name. Raises ChatModelUnavailable for an adapter of another model."""
    for module, (down, up) in adapter.modules.items():
        if shapes.get(module) != (down.shape[1], up.shape[0]):
            raise ChatModelUnavailable(
                f"The adapter {adapter.name} changes {module} ({down.shape[1]} to {up.shape[0]}), which its base model does "
                "not have in that size. Name the model that it was trained on.",
                adapter=adapter.name,
            )


def folder_name(folder: Path) -> str:
    """A name for an adapter folder that no other content will ever have. Raises ChatModelUnavailable where there is none."""
    try:
        stat = (folder / WEIGHTS).stat()
    except OSError as error:
        raise ChatModelUnavailable(f"There is no adapter in {folder}: {WEIGHTS} is missing.", path=str(folder)) from error
    return f"folder-{_digest(folder / WEIGHTS, stat.st_mtime_ns, stat.st_size)[:16]}"


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
