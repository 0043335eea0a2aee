"""Models tried in several modes: built, loaded, asked once, timed. Nothing is registered and nothing stays."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.errors import InvalidInput
from agents.llm.builds import read_build
from agents.llm.weights import model_folder
from agents.models import ModelArtifact
from training.errors import QuantizationFailed
from training.measuring import Figures, Questions, measure
from training.models import QuantizationReport
from training.quantization import MODES, merge, quantize
from training.services.quantizations import adapter_named, examples

UNQUANTIZED = "fp32"  # measured as transformers runs it: what the others are compared with


def quantized_try(
    model: str,
    adapter: str = "",
    modes: Sequence[str] = (UNQUANTIZED,),
    *,
    question: str = "What is a model?",
    max_tokens: int = 32,
    on_progress: Callable[[float, str], Any] = lambda fraction, words: None,
) -> list[dict[str, Any]]:
    """A row a mode: times, memory, speeds and the answer. A build by its name is measured as it is.

    adapter: name or number of an artifact, or a folder. Raises InvalidInput, ChatModelUnavailable, QuantizationFailed.
    """
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise InvalidInput(f"There is no mode {unknown[0]!r}; there are {', '.join(MODES)}.", field="mode")
    folder = None
    artifact = None
    if adapter and Path(adapter).is_dir():
        folder = Path(adapter)
    elif adapter:
        artifact = adapter_named(adapter)
        folder, model = artifact.folder, artifact.base_model
    base = model_folder(model)
    asked = Questions(chats=(({"role": "user", "content": question},),), max_tokens=max_tokens)
    build = read_build(base)
    if build is not None:
        on_progress(0.1, f"measuring {model}")
        return [_row(build.mode, _measured(base, asked))]
    scratch = Path(settings.DATA_DIR) / "quantization"
    scratch.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="trial-", dir=scratch))
    rows = []
    try:
        for number, mode in enumerate(modes):
            on_progress(number / len(modes), mode)
            if mode == UNQUANTIZED:
                merged = merge(base, folder, work / "merged", UNQUANTIZED)
                rows.append(_row(mode, _measured(merged, asked, plain=True)))
                continue
            made = _made(model, artifact, mode) if folder is None or artifact else None
            if made is None:
                made = work / mode
                quantize(base, folder, mode, made, work=work, name=model, chats=examples(artifact))
            rows.append(_row(mode, _measured(made, asked)))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    on_progress(1, "")
    return rows


def _made(model: str, artifact: ModelArtifact | None, mode: str) -> Path | None:
    """Folder of a registered build of the same."""
    reports = QuantizationReport.objects.filter(base_model=model, adapter=artifact, mode=mode, artifact__isnull=False)
    report = reports.select_related("artifact").first()
    return report.artifact.folder if report and report.artifact.folder.is_dir() else None


def _measured(folder: Path, asked: Questions, *, plain: bool = False) -> Figures:
    try:
        return measure(folder, asked, plain=plain, threads=settings.ADAPTRAG_LOCAL_THREADS or 1)
    except QuantizationFailed as error:
        raise QuantizationFailed(f"{folder.name}: {error.message}") from error


def _row(mode: str, figures: Figures) -> dict[str, Any]:
    return {
        "mode": mode,
        "load_seconds": figures.load_seconds,
        "weights_bytes": figures.weights_bytes,
        "peak_memory_bytes": figures.peak_memory_bytes,
        "prefill_tokens_per_second": figures.prefill_tokens_per_second,
        "decode_tokens_per_second": figures.decode_tokens_per_second,
        "prefill_8_tokens_per_second": figures.prefill_8_tokens_per_second,
        "decode_8_tokens_per_second": figures.decode_8_tokens_per_second,
        "first_token_ms": figures.first_token_ms["p50"],
        "latency_ms": figures.latency_ms["p50"],
        "answer": figures.answers[0],
    }
