"""Sentence encoders: texts to unit vectors, in ONNX Runtime or torch. The settings are in agents.retrieval.embedding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

BATCH = 16
# A longer text's tail is cut before tokenization; at least as many characters make 256 tokens.
LONGEST_TEXT = 8000


class Embedder(Protocol):
    """Unit vectors whose inner product is the similarity. `name` identifies the weights: equal names, comparable vectors."""

    name: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32, shape (len(texts), dimensions). Safe to call from several threads."""
        ...


class Tokens:
    """The encoder's tokenizer: texts to padded ids, and counting."""

    def __init__(self, source: Path) -> None:
        from tokenizers import Tokenizer

        config = source / "sentence_bert_config.json"
        self.longest = json.loads(config.read_text())["max_seq_length"] if config.is_file() else 256
        self._counting = Tokenizer.from_file(str(source / "tokenizer.json"))
        self._counting.no_truncation()
        self._counting.no_padding()
        self._cutting = Tokenizer.from_file(str(source / "tokenizer.json"))
        self._cutting.no_padding()
        self._cutting.enable_truncation(self.longest)

    def count(self, text: str) -> int:
        return len(self._counting.encode(text, add_special_tokens=False).ids)

    def padded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids, mask), int64, shape (len(texts), longest of these)."""
        encoded = self._cutting.encode_batch([text[:LONGEST_TEXT] for text in texts])
        ids = np.zeros((len(encoded), max(len(one.ids) for one in encoded)), np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
        return ids, mask


class _BatchedEmbedder:
    """Splits any number of texts into batches of like length; subclasses define `_run(ids, mask)`."""

    name: str
    dimensions: int
    _tokens: Tokens

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for rows in batches(texts):
            vectors[rows] = self._run(*self._tokens.padded([texts[row] for row in rows]))
        return vectors

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class OnnxEmbedder(_BatchedEmbedder):
    """One thread a call: with the other core busy, more threads wait for each other longer than they compute."""

    def __init__(self, source: Path, model: Path, name: str = "") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokens = Tokens(source)
        self.dimensions = self._session.get_outputs()[0].shape[1]
        self.name = name

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


class TorchEmbedder(_BatchedEmbedder):
    """The reference, and the way for encoders that the converter doesn't know. Mean-pooled, like every model of this family."""

    def __init__(self, source: Path, name: str = "") -> None:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(1)  # as above; batches run beside each other instead
        self._model = AutoModel.from_pretrained(source, local_files_only=True, use_safetensors=True).eval()
        self._tokens = Tokens(source)
        self.dimensions = self._model.config.hidden_size
        self.name = name

    def _run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            weights = torch.from_numpy(mask)
            states = self._model(input_ids=torch.from_numpy(ids), attention_mask=weights).last_hidden_state
            total = (states * weights[..., None]).sum(dim=1)
            return torch.nn.functional.normalize(total, dim=1).numpy()


def batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Rows of texts of like length together, shortest first: padding costs as much as text."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for begin in range(0, len(order), BATCH):
        yield order[begin : begin + BATCH]


def embed_batches(model: Embedder, texts: Sequence[str], threads: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """(rows, vectors) for all of `texts`, batch by batch, in an order of its own; `threads` batches at a time."""
    waiting = batches(texts)

    def run(rows: list[int]) -> tuple[list[int], np.ndarray]:
        return rows, model.embed([texts[row] for row in rows])

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        yield from pool.map(run, waiting)
