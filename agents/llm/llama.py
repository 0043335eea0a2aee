"""Forward pass of the Llama family on the CPU, in few operations: transformers spends as long on dispatch as on arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from agents.llm.int8 import BLOCK, Int8Linear, rotated
from agents.llm.kv import Batch, KVCache

_FIXED_ROPE = ("default", "linear", "llama3", "yarn")


def fits(config: Any) -> bool:
    """Whether a model with this configuration can run here."""
    return (
        config.model_type == "llama"
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.rope_parameters["rope_type"] in _FIXED_ROPE
    )


def fits_int8(config: Any) -> bool:
    """Whether it can be rotated, which int8 needs to keep its quality."""
    return fits(config) and all(size % BLOCK == 0 for size in (config.hidden_size, config.intermediate_size, config.head_dim))


class Dense:
    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._weight = weight.to(dtype)

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        if factor is not None:
            x = x * factor
        return F.linear(x.to(self._weight.dtype), self._weight).float()


class LlamaRunner:
    """Computes in float32; the weights are float32, bfloat16 or int8 (`form`)."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: Path, config: Any, form: str) -> None:
        self.form = form
        self.window = config.max_position_embeddings
        self._heads, self._kv_heads, self._width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self._epsilon = config.rms_norm_eps
        self._rotate = form == "int8"
        self._linear: Callable[[Tensor], Any]
        if form == "int8":
            self._linear = Int8Linear
        else:
            self._linear = lambda weight: Dense(weight, torch.bfloat16 if form == "bf16" else torch.float32)
        self._turns = _turns(config)
        with torch.inference_mode():
            self._load(_Tensors(folder), config)

    def forward(self, ids: Tensor, cache: KVCache, batch: Batch) -> Tensor:
        """Logits, shape (B, vocabulary), behind the last of ids, shape (B, T); fills the cache."""
        size, tokens = ids.shape
        heads, kv_heads, width = self._heads, self._kv_heads, self._width
        x = F.embedding(ids, self._embedding).float().view(size * tokens, -1)
        turns = self._turns[batch.positions].view(size * tokens, 1, width // 2)
        for layer, (qkv, out, gate_up, down) in enumerate(self._layers):
            mixed = qkv(x, self._norm(x)).view(size * tokens, heads + 2 * kv_heads, width)
            pairs = mixed[:, : heads + kv_heads].reshape(size * tokens, heads + kv_heads, width // 2, 2)
            turned = torch.view_as_real(torch.view_as_complex(pairs) * turns).view(size, tokens, heads + kv_heads, width)
            keys, values = cache.write(
                layer,
                batch,
                turned[:, :, heads:].transpose(1, 2),
                mixed[:, heads + kv_heads :].view(size, tokens, kv_heads, width).transpose(1, 2),
            )
            if tokens == 1:
                # The queries that share a key stand where a sequence would, which reads each key once.
                queries = turned[:, 0, :heads].view(size, kv_heads, heads // kv_heads, width)
                seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=batch.mask)
                seen = seen.reshape(size, heads * width)
            else:
                queries = turned[:, :, :heads].transpose(1, 2)
                keys, values = (part.repeat_interleave(heads // kv_heads, 1) for part in (keys, values))
                seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=batch.mask)
                seen = seen.transpose(1, 2).reshape(size * tokens, heads * width)
            x = x + out(seen)
            gate, up = gate_up(x, self._norm(x)).chunk(2, -1)
            hidden = F.silu(gate).mul_(up)
            x = x + down(rotated(hidden) if self._rotate else hidden)
        last = x.view(size, tokens, -1)[:, -1]
        return self._head(last, self._norm(last))

    def _norm(self, x: Tensor) -> Tensor:
        """What RMSNorm multiplies rows by; its weights are folded into the layer that reads it."""
        return x.square().mean(-1, keepdim=True).add_(self._epsilon).rsqrt_()

    def _load(self, weights: _Tensors, config: Any) -> None:
        heads, kv_heads, width = self._heads, self._kv_heads, self._width
        # Pairs of the rotary embedding side by side, so that turning them is one complex multiplication.
        paired = torch.arange(width).view(2, width // 2).T.flatten()
        reads = rotated if self._rotate else _same
        writes = (lambda weight: rotated(weight.T).T) if self._rotate else _same
        self._layers = []
        for number in range(config.num_hidden_layers):
            layer = f"model.layers.{number}."
            before, within = weights[layer + "input_layernorm.weight"], weights[layer + "post_attention_layernorm.weight"]
            query, key, value, out = (weights[f"{layer}self_attn.{name}_proj.weight"] for name in "qkvo")
            query = query.view(heads, width, -1)[:, paired].flatten(0, 1)
            key = key.view(kv_heads, width, -1)[:, paired].flatten(0, 1)
            gate, up, down = (weights[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
            self._layers.append(
                (
                    self._linear(reads(torch.cat([query, key, writes(value)]) * before)),
                    self._linear(writes(reads(out))),
                    self._linear(reads(torch.cat([gate, up]) * within)),
                    self._linear(writes(reads(down))),
                )
            )
        table = weights["model.embed_tokens.weight"]
        head = table if config.tie_word_embeddings else weights["lm_head.weight"]
        self._head = self._linear(reads(head * weights["model.norm.weight"]))
        self._embedding = reads(table).to(torch.bfloat16 if self.form == "bf16" else torch.float32)


def _same(weight: Tensor) -> Tensor:
    return weight


def _turns(config: Any) -> Tensor:
    """Rotary embedding as complex numbers, shape (window, width / 2)."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = LlamaRotaryEmbedding(config)
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), rope.inv_freq.float())
    return torch.polar(torch.full_like(angles, rope.attention_scaling), angles)


class _Tensors:
    """The tensors of a folder's safetensors files by name, as float32, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
        self._where = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 not a dict

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name).float()
