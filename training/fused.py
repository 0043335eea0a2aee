"""Layers of a network under LoRA in fewer operations, for training in fp32 on the CPU, where memory is what is waited for.

peft adds s B (A x) to W x: passes over the layer's output in memory, and thin products that can take as long as W x itself.
Here the adapter's share is written into the base weight when an optimizer step has changed it, so a layer computes one
product forward and one for the gradient of its input; the gradients of A and B take four thin products backward.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Blocks of transformers that compute down(act(gate x) * up x) and nothing else; others with these three layers scale or clamp.
GATED = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP", "Olmo2MLP"}


def fuse(network: Any) -> int:
    """Make the plain LoRA layers of a peft model, and the gated blocks around them, compute so; returns how many layers do.

    Their base weights then hold the adapter's share: the adapter alone can be saved of such a network.
    """
    from peft.tuners.lora import Linear

    uses = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    layers = [
        module
        for module in network.modules()
        if isinstance(module, Linear) and _plain(module) and uses[id(module.get_base_layer().weight)] == 1
    ]
    for layer in layers:
        layer.forward = MergedLinear(layer)
    if layers:
        for module in network.modules():
            if type(module).__name__ in GATED:
                _gate(module)
    return len(layers)


def _plain(layer: Any) -> bool:
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    return (
        type(base) is nn.Linear
        and base.weight.dtype == torch.float32
        and base.weight.device.type == "cpu"
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
    )


class MergedLinear:
    """What a LoRA layer of peft computes of x, shape (..., in): shape (..., out)."""

    def __init__(self, layer: Any) -> None:
        (name,) = layer.active_adapters
        self._base = layer.get_base_layer()
        self._down, self._up = layer.lora_A[name], layer.lora_B[name]
        self._scale: float = layer.scaling[name]
        self._written: tuple[Tensor, Tensor] | None = None  # A and B as they stand in the base weight
        self._versions: tuple[int, int] | None = None  # of A and B at that time; torch counts changes in place

    def __call__(self, x: Tensor) -> Tensor:
        down, up = self._down.weight, self._up.weight
        if (down._version, up._version) != self._versions:
            self._write(down, up)
        return _Merged.apply(x, self._base.weight, self._base.bias, down, up, self._scale)

    @torch.no_grad()
    def _write(self, down: Tensor, up: Tensor) -> None:
        weight = self._base.weight
        if self._written is not None:
            weight.addmm_(self._written[1], self._written[0], alpha=-self._scale)
        weight.addmm_(up, down, alpha=self._scale)
        self._written, self._versions = (down.clone(), up.clone()), (down._version, up._version)


class _Merged(torch.autograd.Function):
    """x (W + s B A).T + bias, with gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, down, up)
        ctx.weight, ctx.scale = weight, scale
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up = ctx.saved_tensors
        read, written = x.flatten(0, -2), grad.flatten(0, -2)
        for_down = ((written @ up).T @ read).mul_(ctx.scale)
        for_up = (written.T @ (read @ down.T)).mul_(ctx.scale)
        return (written @ ctx.weight).view_as(x) if ctx.needs_input_grad[0] else None, None, None, for_down, for_up, None


def _gate(block: Any) -> None:
    if isinstance(block.act_fn, nn.SiLU) or type(block.act_fn).__name__ == "SiLUActivation":
        block.forward = lambda x: block.down_proj(_Gated.apply(block.gate_proj(x), block.up_proj(x)))


class _Gated(torch.autograd.Function):
    """silu(gate) * up; what lies between is computed again rather than kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        for_up = functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), for_up
