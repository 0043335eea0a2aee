"""From a folder to something that computes logits for batches: Llamas by our own forward pass, the rest by transformers."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Cache

from agents.errors import ChatModelUnavailable
from agents.llm import int8, llama
from agents.llm.adapters import Adapter, AdapterRows, fits
from agents.llm.builds import read_build
from agents.llm.cpu8 import Cpu8Runner
from agents.llm.kv import Batch, KVCache

logger = logging.getLogger(__name__)

QUANTIZED_BY_TRANSFORMERS = ("int8", "nf4")  # modes of builds that bitsandbytes made


class Runner(Protocol):
    form: str  # fp32, bf16, int8, or the mode of a build
    window: int
    device: torch.device
    dtype: torch.dtype  # of masks and of keys and values

    def forward(self, ids: Tensor, cache: KVCache, batch: Batch, adapters: AdapterRows | None = None) -> Tensor: ...

    def adapted(self, adapter: Adapter) -> object:
        """An adapter as AdapterRows takes it. Raises ChatModelUnavailable for one of another model."""
        ...


def load_runner(folder: Path, form: str = "auto", threads: int = 0) -> Runner:
    """Load weights. `auto` takes what measured fastest without a loss of quality (docs/decisions/0003-local-model.md).

    A build is loaded as it was made, whatever `form` says. threads: of ONNX Runtime, which can't change them later; 0 is one.

    Raises ChatModelUnavailable for a form that this model or machine can't have, and for models that keep a recurrent state.
    """
    config = AutoConfig.from_pretrained(folder).get_text_config()
    build = read_build(folder)
    form = build.mode if build is not None else _form(folder, config, form)
    try:
        with torch.inference_mode():
            if build is not None and form == Cpu8Runner.form:
                return Cpu8Runner(folder, config, threads)
            if build is not None and form in QUANTIZED_BY_TRANSFORMERS:
                return TransformersRunner(folder, config, form)
            if llama.fits(config) and not torch.cuda.is_available():
                return llama.LlamaRunner(folder, config, form)
            return TransformersRunner(folder, config, form)
    except ChatModelUnavailable:
        raise
    except Exception as error:  # whatever a foreign model's files or code make transformers raise
        raise ChatModelUnavailable(f"The model in {folder} can't be loaded: {error}") from error


def _form(folder: Path, config: Any, form: str) -> str:
    fits_int8 = not torch.cuda.is_available() and llama.fits_int8(config) and int8.supported()
    if form == "auto":
        return "int8" if fits_int8 else "bf16" if torch.cuda.is_available() else "fp32"
    if form == "int8" and not fits_int8:
        raise ChatModelUnavailable(
            f"int8 is for models of the Llama family on a CPU with exact byte products (VNNI); {folder.name} "
            f"({config.model_type}) here is not one. Set ADAPTRAG_LOCAL_DTYPE to auto, fp32 or bf16."
        )
    return form


class TransformersRunner:
    """Any causal model of transformers whose only state is keys and values."""

    def __init__(self, folder: Path, config: Any, form: str) -> None:
        self.form = form
        self.dtype = torch.bfloat16 if form == "bf16" else torch.float32
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if unlike := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
            raise ChatModelUnavailable(
                f"The model in {folder} has layers of the kind {', '.join(sorted(unlike))}, which the batched engine does "
                "not run. Serve it with vLLM or another server, and use the backend openai_compatible."
            )
        self._quantized = getattr(config, "quantization_config", None) is not None or form in QUANTIZED_BY_TRANSFORMERS
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=self.dtype, device_map={"": self.device}
        ).eval()
        self._hooked: set[str] = set()
        self._adapters: AdapterRows | None = None
        # Within its sliding window a model sees what full attention sees.
        windows = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
        self.window = min([size for size in windows if size], default=2048)
        parameters = inspect.signature(self._model.forward).parameters
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._check(folder)

    def adapted(self, adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
        shapes = {}
        for name, module in self._model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() == 2:
                # GPT-2 keeps its weights transposed.
                shapes[name] = tuple(weight.shape) if type(module).__name__ == "Conv1D" else (weight.shape[1], weight.shape[0])
        fits(adapter, shapes)
        for name in adapter.modules:
            if name not in self._hooked:
                self._hooked.add(name)
                self._model.get_submodule(name).register_forward_hook(partial(self._add, name))
        return {
            name: tuple(part.T.contiguous().to(self.device, self.dtype) for part in pair)
            for name, pair in adapter.modules.items()
        }

    def _add(self, name: str, module: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        for adapter, rows in self._adapters.groups if self._adapters else ():
            if (pair := adapter.get(name)) is None:
                continue
            if rows is None:
                out = out + given[0] @ pair[0] @ pair[1]
            else:
                rows = rows.to(out.device)
                out = out.index_add(0, rows, given[0][rows] @ pair[0] @ pair[1])
        return out

    def forward(self, ids: Tensor, cache: KVCache, batch: Batch, adapters: AdapterRows | None = None) -> Tensor:
        """Logits, shape (B, vocabulary), behind the last of ids, shape (B, T); fills the cache."""
        state = _Rows(cache, batch)
        self._adapters = adapters
        output = self._model(
            input_ids=ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=state,
            use_cache=True,
            **self._extra,
        )
        return output.logits[:, -1].float()

    def _check(self, folder: Path) -> None:
        """Two rows, filled in two steps, must say what the model says of each alone: some keep a state besides the cache."""
        ids = torch.arange(12, device=self.device).view(2, 6) + 5
        wanted = self._model(input_ids=ids).logits[:, -1].float()
        cache = KVCache()
        cache.resize(2, 6)
        for row in range(2):
            self.forward(ids[row : row + 1, :5], cache, Batch.of(row, torch.arange(5, device=self.device)[None], self.dtype))
        last = torch.full((2, 1), 5, device=self.device)
        found = self.forward(ids[:, 5:], cache, Batch.of(0, last, self.dtype))
        tolerance = (0.05 if self._quantized or self.dtype == torch.bfloat16 else 1e-3) * float(wanted.abs().max())
        if not torch.allclose(found, wanted, atol=tolerance, rtol=0):
            raise ChatModelUnavailable(
                f"The model in {folder} ({self._model.config.model_type}) does not give the same answers in a batch. Serve it "
                "with vLLM or another server, and use the backend openai_compatible."
            )


class _Rows(Cache):
    """The rows of a batch as the cache that transformers' models write to."""

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        super().__init__(layers=[])
        self._cache, self._batch = cache, batch

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self._cache.write(layer_idx, self._batch, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._batch.length - self._batch.positions.shape[1]
