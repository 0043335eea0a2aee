"""Linear layers in 8 bits on the CPU: one scale a weight row, and one an activation row.

torch's own dynamic quantization takes one scale for all activation rows of a call. The first token of a prompt has values a
thousand times those of the others, so the others lose their bits: perplexity of the shipped model rose from 21 to 33. It also
lets a request's answer depend on the requests that it is batched with. See docs/decisions/0003-local-model.md.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 64


class Int8Linear:
    """x @ weight.T for x of shape (rows, in), weight (out, in)."""

    def __init__(self, weight: Tensor) -> None:
        scale = weight.abs().amax(1).clamp_min_(1e-30).div_(127)
        whole = weight.div(scale[:, None]).round_().to(torch.int8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors are to leave torch some day; its version is pinned
            quantized = torch._make_per_channel_quantized_tensor(whole, scale, torch.zeros(len(scale), dtype=torch.int32), 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """`factor`, shape (rows, 1), multiplies x: a normalisation costs nothing where rows are rescaled anyway."""
        step = x.abs().amax(-1, keepdim=True).mul_(1 / 127).clamp_min_(1e-30)  # a norm to infinity takes eight times as long
        # The values are whole numbers of steps: scale 1, zero at the middle of a byte. Sums are exact in 32 bits.
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(x / step, 1.0, 128, self._packed)
        return out.mul_(step if factor is None else step.mul_(factor))


@lru_cache(maxsize=1)
def supported() -> bool:
    """Whether this machine multiplies bytes exactly: older CPUs saturate the sums of pairs, others lack the operation."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(0, 2, (32, 256), generator=generator).mul_(254).sub_(127).float()
    x = torch.randint(0, 2, (5, 256), generator=generator).mul_(254).sub_(127).float()
    try:
        found = Int8Linear(weight)(x)
    except RuntimeError:
        return False
    return torch.equal(found.round(), x @ weight.T)


@lru_cache(maxsize=1)
def rotation() -> Tensor:
    """The orthonormal Hadamard matrix of one block, shape (64, 64); it is its own inverse."""
    matrix = torch.ones(1, 1)
    while len(matrix) < BLOCK:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / BLOCK**0.5


def rotated(x: Tensor) -> Tensor:
    """x with each block of 64 along its last dimension rotated, so that no value stands out and rounding costs little.

    A rotation of what a layer reads and of the weights that read it cancels (QuaRot, Ashkboos et al., 2024).
    """
    return (x.reshape(-1, BLOCK) @ rotation()).view(x.shape)
