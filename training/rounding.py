"""Rounding of weights to few bits, and the build that ONNX Runtime runs fastest (mode cpu8). Knows no ORM.

Matrices of the layers are kept in 8 bits with a scale a block; the table that is both embedding and output layer in 4 bits.
Where that is more than a quarter of the float weights, the gates and ups that 4 bits change least are rounded to 4 bits too,
until it is not. What is rounded to 4 bits is rounded by GPTQ (Frantar et al., 2022): each column's error is made up for by the
columns that are not rounded yet, going by what the model reads on example prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.llm.cpu8 import FILE, GROUP

SHARE = 0.24  # of the float weights' bytes: what packed buffers and the rest may take
# Bits a weight in memory, with scales and sums, as ONNX Runtime packs them (measured).
_PACKED = {8: 9.6, 4: 5.65}
_TABLE_BITS = 4.5
_TOKENS = 512  # of an example that are read
_DAMPING = 0.01
_MARGIN = 1.1  # prompts to come may have larger keys and values


def build(merged: Path, out: Path, prompts: Sequence[Sequence[int]]) -> None:
    """Write model.safetensors and config.json. prompts: tokens of example prompts with answers."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(merged, use_safetensors=True, dtype=torch.float32).eval()
        seen, largest = _seen(model, prompts)
        tensors: dict[str, Tensor] = {}
        small: dict[str, tuple[float, Tensor, Tensor]] = {}
        for number, layer in enumerate(model.model.layers):
            at, attention, mlp = f"layers.{number}", layer.self_attn, layer.mlp
            tensors[f"{at}.before"], tensors[f"{at}.within"] = (
                layer.input_layernorm.weight,
                layer.post_attention_layernorm.weight,
            )
            tensors[f"{at}.keys"], tensors[f"{at}.values"] = _channels(largest, at)
            qkv = torch.cat([part.weight for part in (attention.q_proj, attention.k_proj, attention.v_proj)])
            whole = {"qkv": qkv, "out": attention.o_proj.weight, "down": mlp.down_proj.weight}
            whole |= {"gate": mlp.gate_proj.weight, "up": mlp.up_proj.weight}
            for name, weight in whole.items():
                tensors[f"{at}.{name}.q"], tensors[f"{at}.{name}.s"] = in_blocks(weight, 8, _block(weight.shape[1]))
                if name in ("gate", "up"):
                    moment = seen[f"{at}.mlp"]
                    values, scales, _ = gptq(weight, moment, symmetric=True)
                    error = (values.sub(8).view(len(weight), -1, GROUP) * scales.unsqueeze(-1)).flatten(1).sub_(weight)
                    lost = float(((error @ moment) * error).sum() / ((weight @ moment) * weight).sum())
                    small[f"{at}.{name}"] = lost, values, scales
        head = model.get_output_embeddings().weight
        tensors |= _table("head", head, seen["head"])
        if head.data_ptr() != model.get_input_embeddings().weight.data_ptr():
            tensors |= _table("embedding", model.get_input_embeddings().weight, None)
        tensors["norm"] = model.model.norm.weight
        for name in _to_shrink(model, small):
            _, values, scales = small[name]
            tensors[f"{name}.q"], tensors[f"{name}.s"] = _nibbles(values).view(len(values), -1, GROUP // 2), scales
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / FILE)
        model.config.save_pretrained(out)


def in_blocks(weight: Tensor, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """Rounded to whole numbers of a scale a block: uint8 of shape (rows, blocks, block), the middle at 2^(bits-1), and the
    scales, shape (rows, blocks). The value that is largest lies on the side that has one number more.
    """
    parts, middle = weight.view(len(weight), -1, block), 2 ** (bits - 1)
    largest = parts.gather(-1, parts.abs().argmax(-1, keepdim=True))
    scales = largest / -middle
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    return (parts / scales).round_().clamp_(-middle, middle - 1).add_(middle).to(torch.uint8), scales[..., 0]


def gptq(weight: Tensor, moment: Tensor | None, *, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """4-bit values 0 to 15, shape of weight, with scales and middles, shape (rows, groups): value = (q - 8) * scale + middle.

    moment: mean of x x^T of what the matrix reads, shape (columns, columns); None rounds each value to the nearest.
    """
    rest = weight.clone()
    columns = weight.shape[1]
    factors = torch.eye(columns) if moment is None else _factors(moment)
    values = torch.empty_like(rest)
    scales, middles = (torch.empty(len(rest), columns // GROUP) for _ in range(2))
    for group in range(columns // GROUP):
        first, stop = group * GROUP, (group + 1) * GROUP
        part, errors = rest[:, first:stop].clone(), torch.empty(len(rest), GROUP)
        scale, middle = _steps(part, symmetric)
        scales[:, group], middles[:, group] = scale, middle
        for column in range(GROUP):
            at = first + column
            value = ((part[:, column] - middle) / scale).round_().add_(8).clamp_(0, 15)
            values[:, at] = value
            error = (part[:, column] - ((value - 8) * scale + middle)) / factors[at, at]
            part[:, column:] -= error[:, None] * factors[at, at:stop]
            errors[:, column] = error
        rest[:, stop:] -= errors @ factors[first:stop, stop:]
    return values, scales, middles


def _steps(part: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    if symmetric:
        scale = part.gather(-1, part.abs().argmax(-1, keepdim=True))[:, 0] / -8
        middle = torch.zeros_like(scale)
    else:
        low, high = part.amin(-1), part.amax(-1)
        scale = ((high - low) / 15).bfloat16().float()
        middle = (low + 8 * scale).bfloat16().float()
    return torch.where(scale == 0, torch.ones_like(scale), scale), middle


def _factors(moment: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse."""
    damped = moment.double() + torch.eye(len(moment)) * _DAMPING * moment.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True).float()


def _table(name: str, weight: Tensor, moment: Tensor | None) -> dict[str, Tensor]:
    """As agents.llm.cpu8.Table reads it, rows filled up to a multiple of 64."""
    values, scales, middles = gptq(weight, moment, symmetric=False)
    missing = -len(values) % 64
    steps = torch.stack([scales.T, middles.T], -1).bfloat16()
    return {
        f"{name}.values": torch.nn.functional.pad(_nibbles(values), (0, 0, 0, missing)),
        f"{name}.steps": torch.nn.functional.pad(steps, (0, 0, 0, missing)),
    }


def _nibbles(values: Tensor) -> Tensor:
    """Two of shape (rows, columns) to a byte, the first in the low bits."""
    whole = values.to(torch.uint8)
    return whole[:, 0::2] | whole[:, 1::2] << 4


def _block(columns: int) -> int:
    """Rows long enough share a scale among more values: it saves memory, and blocks of 256 lose nothing in 8 bits."""
    return next(size for size in (256, 128, 64) if columns % size == 0)


def _channels(largest: dict[str, Tensor], at: str) -> tuple[Tensor, Tensor]:
    """Scales of a layer's keys and values in 8 bits, one a channel; keys are rotated by pairs of channels, which share one."""
    keys, values = largest[f"{at}.k_proj"], largest[f"{at}.v_proj"]
    return tuple((_MARGIN * part / 127).clamp_min(1e-8) for part in (keys, values))


def _seen(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """On the prompts, the mean of x x^T of what gate and up, and the output layer, read; and how large keys and values get."""
    width = model.config.head_dim
    largest: dict[str, Tensor] = {}

    def measure(name: str, out: Tensor, turned: bool) -> None:
        out = out.reshape(-1, out.shape[-1])
        if turned:
            pairs = out.view(len(out), -1, 2, width // 2)
            out = pairs.square().sum(2, keepdim=True).sqrt().expand_as(pairs).reshape(out.shape)
        most = out.abs().amax(0)
        largest[name] = torch.maximum(largest[name], most) if name in largest else most

    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, x: Tensor) -> None:
        x = x.reshape(-1, x.shape[-1])
        sums[name] = sums.get(name, 0) + x.T @ x
        counts[name] = counts.get(name, 0) + len(x)

    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, given, name=f"layers.{number}.mlp": note(name, given[0]))
        for number, layer in enumerate(model.model.layers)
    ]
    for number, layer in enumerate(model.model.layers):
        for name in ("k_proj", "v_proj"):
            hook = partial(_told, measure, f"layers.{number}.{name}", name == "k_proj")
            hooks.append(getattr(layer.self_attn, name).register_forward_hook(hook))
    hooks.append(model.get_output_embeddings().register_forward_pre_hook(lambda _, given: note("head", given[0])))
    for prompt in prompts:
        model(input_ids=torch.tensor([list(prompt)[-_TOKENS:]]))
    for hook in hooks:
        hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}, largest


def _told(measure: Any, name: str, turned: bool, _: Any, given: Any, out: Tensor) -> None:
    measure(name, out, turned)


def _to_shrink(model: Any, small: dict[str, tuple[float, Tensor, Tensor]]) -> list[str]:
    """The gates and ups, those that lose least first, that 4 bits must hold for the whole to fit."""
    tables = {id(part): part for part in (model.get_output_embeddings().weight, model.get_input_embeddings().weight)}
    floats = sum(part.numel() for part in model.parameters()) * 4
    layers = sum(part.numel() for layer in model.model.layers for part in layer.parameters() if part.dim() == 2)
    size = sum(part.numel() for part in tables.values()) * _TABLE_BITS / 8 + layers * _PACKED[8] / 8
    chosen = []
    for name in sorted(small, key=lambda name: small[name][0]):
        if size <= SHARE * floats:
            break
        size -= small[name][1].numel() * (_PACKED[8] - _PACKED[4]) / 8
        chosen.append(name)
    return chosen
