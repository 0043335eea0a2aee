"""Builds of the mode cpu8: layers in 8 and 4 bits by ONNX Runtime, one table of 4 bits for embedding and output layer.

docs/decisions/0014-quantization.md says why: it is the fastest form that was measured on the CPU at a quarter of the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from agents.errors import ChatModelUnavailable
from agents.llm import llama
from agents.llm.adapters import Adapter, AdapterRows
from agents.llm.kv import Batch, KVCache
from agents.llm.onnx_graph import graph

GROUP = 64  # values of a row of the table that share a scale
FILE = "model.safetensors"


def fits(config: Any) -> bool:
    """Whether a model with this configuration can have this form."""
    return llama.fits_int8(config)


class Table:
    """A matrix of 4-bit values that rows are looked up in and that vectors are multiplied by, held once.

    values: uint8 of shape (rows, width / 2), the first of two in the low bits. steps: bfloat16 of shape
    (width / GROUP, rows, 2), scale and middle of each group. Rows are a multiple of 64.
    """

    def __init__(self, values: Tensor, steps: Tensor) -> None:
        whole = torch.stack([values & 15, values >> 4], -1).flatten(1).to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1)
        self._steps = steps.clone()  # of its own: a view would keep the whole file in memory
        self._block = next((size for size in (64, 32) if self._holds(size, whole)), 0)
        if not self._block:
            raise ChatModelUnavailable(
                "This CPU keeps 4-bit weights in an order that is not known; use another mode than cpu8."
            )

    def rows(self, ids: Tensor) -> Tensor:
        """float32, shape (n, width), for ids of shape (n,)."""
        return self._values(self._block, ids).sub_(8).view(len(ids), -1, GROUP).mul_(
            self._steps[:, ids, 0].T.unsqueeze(-1).float()
        ).add_(self._steps[:, ids, 1].T.unsqueeze(-1).float()).flatten(1)  # fmt: skip

    def times(self, x: Tensor) -> Tensor:
        """x @ table.T for x of shape (n, width); shape (n, rows), float32."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(torch.bfloat16), self._packed, GROUP, self._steps).float()

    def _values(self, block: int, ids: Tensor) -> Tensor:
        """torch puts rows n and n + block / 2 of each block of rows into one byte, a byte for each column."""
        half = block // 2
        bytes_ = self._packed.view(-1, self._packed.shape[1] * 2, half)[ids // block, :, ids % half]
        return torch.where((ids % block < half)[:, None], bytes_ & 15, bytes_ >> 4).float()

    def _holds(self, block: int, whole: Tensor) -> bool:
        ids = torch.arange(0, len(whole), max(1, len(whole) // 97))
        return len(whole) % block == 0 and torch.equal(self._values(block, ids), whole[ids].float())


class Cpu8Runner:
    """One thread by default: a second one that shares a core with another program costs more than it brings."""

    form = "cpu8"
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: Path, config: Any, threads: int = 0) -> None:
        if not fits(config):
            raise ChatModelUnavailable(f"{folder.name} ({config.model_type}) can't be run in the form cpu8; quantize it anew.")
        self.window = config.max_position_embeddings
        self._config = config
        with safe_open(folder / FILE, "pt") as file:
            names = set(file.keys())
            tables = {
                name: Table(file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.steps"))
                for name in ("head", "embedding")
                if f"{name}.values" in names
            }
            # Copies: what the session keeps of them would keep the whole file in memory.
            arrays = {
                name: file.get_tensor(name).numpy().copy() for name in sorted(names) if not name.startswith(tuple(tables))
            }
        self._head, self._embedding = tables["head"], tables.get("embedding", tables["head"])
        turns = llama.turns(config)
        arrays |= {"cos": turns.real.contiguous().numpy(), "sin": turns.imag.contiguous().numpy()}
        self._session = _session(graph(config, arrays), arrays, threads or 1)

    def adapted(self, adapter: Adapter) -> object:
        raise ChatModelUnavailable(
            f"A cpu8 build takes no adapter beside it ({adapter.name}); quantize the adapter instead, which merges it.",
            adapter=adapter.name,
        )

    def forward(self, ids: Tensor, cache: KVCache, batch: Batch, adapters: AdapterRows | None = None) -> Tensor:
        """Logits, shape (B, vocabulary), behind the last of ids, shape (B, T); fills the cache."""
        config, (size, tokens) = self._config, ids.shape
        x = self._embedding.rows(ids.flatten()).view(size, tokens, -1)
        hidden = torch.empty(size, 1, config.hidden_size)
        binding = self._session.io_binding()
        binding.bind_cpu_input("last", batch.positions[:, -1].to(torch.int32).numpy())
        binding.bind_cpu_input("longest", np.array(batch.length, np.int32))
        _bind(binding.bind_input, "x", x)
        _bind(binding.bind_output, "hidden", hidden)
        stores = cache.stores(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, torch.int8)
        for layer, pair in enumerate(stores):
            for kind, store in zip("kv", pair, strict=True):
                rows = store[batch.first : batch.first + size]
                _bind(binding.bind_input, f"past_{kind}{layer}", rows, np.int8)
                _bind(binding.bind_output, f"{kind}{layer}", rows, np.int8)
        self._session.run_with_iobinding(binding)
        return self._head.times(hidden[:, 0])[:, : config.vocab_size]


def _bind(bind: Any, name: str, tensor: Tensor, dtype: Any = np.float32) -> None:
    bind(name, "cpu", 0, dtype, tuple(tensor.shape), tensor.data_ptr())


def _session(model: bytes, arrays: dict[str, np.ndarray], threads: int) -> Any:
    """The session keeps its own packed copies; `arrays` may go afterwards."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    options.add_external_initializers(list(values), list(values.values()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
