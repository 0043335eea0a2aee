"""Forward pass of the Llama family on the CPU, in few operations: transformers spends as long on dispatch as on arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from agents.llm.adapters import Adapter, AdapterRows
from agents.llm.adapters import fits as adapter_fits
from agents.llm.int8 import BLOCK, Int8Linear, rotated
from agents.llm.kv import Batch, KVCache

_Pair = tuple[Tensor, Tensor] | None  # A and B, each transposed: shapes (in, r) and (r, out)
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
        self._turns = turns(config)
        with torch.inference_mode():
            self._load(_Tensors(folder), config)

    def forward(self, ids: Tensor, cache: KVCache, batch: Batch, adapters: AdapterRows | None = None) -> Tensor:
        """Logits, shape (B, vocabulary), behind the last of ids, shape (B, T); fills the cache."""
        size, tokens = ids.shape
        groups = adapters.groups if adapters else ()
        heads, kv_heads, width = self._heads, self._kv_heads, self._width
        x = F.embedding(ids, self._embedding).float().view(size * tokens, -1)
        turns = self._turns[batch.positions].view(size * tokens, 1, width // 2)
        for layer, (qkv, out, gate_up, down) in enumerate(self._layers):
            factor = self._norm(x)
            mixed = qkv(x, factor)
            for adapter, rows in groups:
                _add(mixed, adapter[layer][0], rows, x, factor)
            mixed = mixed.view(size * tokens, heads + 2 * kv_heads, width)
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
            for adapter, rows in groups:
                _add(x, adapter[layer][1], rows, seen)
            factor = self._norm(x)
            both = gate_up(x, factor)
            for adapter, rows in groups:
                _add(both, adapter[layer][2], rows, x, factor)
            gate, up = both.chunk(2, -1)
            hidden = F.silu(gate).mul_(up)
            hidden = rotated(hidden) if self._rotate else hidden
            x = x + down(hidden)
            for adapter, rows in groups:
                _add(x, adapter[layer][3], rows, hidden)
        last = x.view(size, tokens, -1)[:, -1]
        return self._head(last, self._norm(last))

    def adapted(self, adapter: Adapter) -> list[tuple[_Pair, _Pair, _Pair, _Pair]]:
        """An adapter as `forward` takes it: by layer, for the four products, permuted and rotated as the weights are."""
        adapter_fits(adapter, self._shapes)
        heads, kv_heads, width = self._heads, self._kv_heads, self._width
        paired = torch.arange(width).view(2, width // 2).T.flatten()
        reads = rotated if self._rotate else _same
        writes = (lambda weight: rotated(weight.T).T) if self._rotate else _same
        turned = {
            "q_proj": lambda up: up.view(heads, width, -1)[:, paired].flatten(0, 1),
            "k_proj": lambda up: up.view(kv_heads, width, -1)[:, paired].flatten(0, 1),
            "v_proj": writes,
            "o_proj": writes,
            "down_proj": writes,
        }

        def pair(layer: int, block: str, names: tuple[str, ...], norm: Tensor | None = None) -> _Pair:
            parts = []
            for name in names:
                down, up = adapter.modules.get(f"model.layers.{layer}.{block}.{name}", (None, None))
                outputs = self._shapes[f"model.layers.{layer}.{block}.{name}"][1]
                parts.append((down, None if up is None else turned.get(name, _same)(up), outputs))
            if all(down is None for down, _, _ in parts):
                return None
            downs = torch.cat([down for down, _, _ in parts if down is not None])
            ups = torch.zeros(sum(outputs for _, _, outputs in parts), len(downs))
            row = column = 0
            for down, up, outputs in parts:
                if down is not None:
                    ups[row : row + outputs, column : column + len(down)] = up
                    column += len(down)
                row += outputs
            return reads(downs if norm is None else downs * norm).T.contiguous(), ups.T.contiguous()

        return [
            (
                pair(layer, "self_attn", ("q_proj", "k_proj", "v_proj"), before),
                pair(layer, "self_attn", ("o_proj",)),
                pair(layer, "mlp", ("gate_proj", "up_proj"), within),
                pair(layer, "mlp", ("down_proj",)),
            )
            for layer, (before, within) in enumerate(self._norms)
        ]

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
        self._norms: list[tuple[Tensor, Tensor]] = []
        self._shapes: dict[str, tuple[int, int]] = {}
        for number in range(config.num_hidden_layers):
            layer = f"model.layers.{number}."
            before, within = weights[layer + "input_layernorm.weight"], weights[layer + "post_attention_layernorm.weight"]
            query, key, value, out = (weights[f"{layer}self_attn.{name}_proj.weight"] for name in "qkvo")
            self._norms.append((before, within))
            query = query.view(heads, width, -1)[:, paired].flatten(0, 1)
            key = key.view(kv_heads, width, -1)[:, paired].flatten(0, 1)
            gate, up, down = (weights[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
            named = {"self_attn.q": query, "self_attn.k": key, "self_attn.v": value, "self_attn.o": out}
            named |= {"mlp.gate": gate, "mlp.up": up, "mlp.down": down}
            self._shapes |= {f"{layer}{name}_proj": (part.shape[1], part.shape[0]) for name, part in named.items()}
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


def _add(out: Tensor, pair: _Pair, rows: Tensor | None, x: Tensor, factor: Tensor | None = None) -> None:
    """out[rows] += (factor * x)[rows] @ A @ B, in place. rows None: all."""
    if pair is None:
        return
    if rows is None:
        low = x @ pair[0]
        out.addmm_(low if factor is None else low.mul_(factor), pair[1])
    else:
        low = x[rows] @ pair[0]
        out.index_add_(0, rows, (low if factor is None else low.mul_(factor[rows])) @ pair[1])


def _same(weight: Tensor) -> Tensor:
    return weight


def turns(config: Any) -> Tensor:
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
