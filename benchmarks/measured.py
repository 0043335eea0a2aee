"""Measurements in processes of their own, whose results a folder can keep."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adaptrag.common.errors import AdaptRAGError

ROOT = Path(__file__).resolve().parent.parent
SPEC, RESULT = "spec.json", "result.json"
CODE = ("agents", "benchmarks", "evals/metrics.py", "training")  # what a figure depends on
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy")


class BenchmarkFailed(AdaptRAGError):
    code = "benchmark_failed"


class Measured:
    """Runs a measurement in a process of its own, or gives what the same one found before and was kept.

    The same: of the same code, libraries, data and model. Raises BenchmarkFailed where another call measures into the folder.
    """

    def __init__(self, scratch: Path, keep: Path | None, files: Iterable[Path] = ()) -> None:
        self._folder = keep or scratch
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchmarkFailed(f"Another call measures into {keep}: await its end, or --keep another folder.") from error
        code = [path for part in CODE for path in sorted((ROOT / part).rglob("*.py")) or [ROOT / part]]
        self._same = {
            "content": _digest([*code, *files]),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def __call__(self, spec: dict[str, Any]) -> dict[str, Any]:
        """What was found, and the `folder` that holds the process's files. Raises BenchmarkFailed."""
        text = json.dumps(spec | self._same, sort_keys=True)
        out = self._folder / f"{spec['kind']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if not (out / RESULT).is_file():
            shutil.rmtree(out, ignore_errors=True)  # what a stopped one left
            out.mkdir(parents=True)
            (out / SPEC).write_text(text)
            command = [sys.executable, "-m", "benchmarks.training_process", str(out.resolve())]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchmarkFailed(f"The measurement failed:\n{done.stderr[-3000:]}")
        return json.loads((out / RESULT).read_text()) | {"folder": out.name}


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
