"""Text in images, read offline by RapidOCR (PP-OCR models, which come in its wheel) in a child process.

`python -m agents.ingestion.ocr MEMORY_BYTES SECONDS FILE...` prints one JSON object a file, as soon as it is read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agents.ingestion.base import Picture

LEAST_SCORE = 0.5  # below, what was read is more often noise than text
SAME_LINE = 0.5  # boxes whose middles differ by less than this share of their height stand in one line


def read_pictures(folder: Path, pictures: Sequence[Picture]) -> tuple[dict[int, str], str]:
    """(text by the picture's number, what went wrong, if anything did). What was read before that stays."""
    from django.conf import settings

    from agents.ingestion.parse import ROOT, child_environment

    names = {str(folder / picture.file): picture.number for picture in pictures}
    bounds = (settings.ADAPTRAG_OCR_MEMORY_BYTES, settings.ADAPTRAG_OCR_SECONDS)
    command = [sys.executable, "-m", "agents.ingestion.ocr", *map(str, bounds), *names]
    problem, printed = "", b""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=settings.ADAPTRAG_OCR_SECONDS, cwd=ROOT, env=child_environment(), check=False
        )
        printed = done.stdout
        if done.returncode:
            problem = (done.stderr.decode(errors="replace").strip().splitlines() or [f"ended with {done.returncode}"])[-1][:300]
    except subprocess.TimeoutExpired as error:
        printed, problem = error.stdout or b"", f"stopped after {settings.ADAPTRAG_OCR_SECONDS} s (ADAPTRAG_OCR_SECONDS)"
    read: dict[int, str] = {}
    for line in printed.decode(errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            answer = json.loads(line)
            read[names[answer["file"]]] = answer["text"]
    return read, problem and f"{len(read)} of {len(pictures)} images read: {problem}"


def main(files: Iterable[str]) -> None:
    engine = _engine()
    for file in files:
        print(json.dumps({"file": file, "text": _text(engine(file))}), flush=True)


def _engine() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _text(found: Any) -> str:
    """The boxes' texts in reading order, those at one height in one line."""
    if found is None or found.txts is None:
        return ""
    boxes = []
    for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        heights = [float(corner[1]) for corner in corners]
        if score >= LEAST_SCORE and text.strip():
            boxes.append(((min(heights) + max(heights)) / 2, max(heights) - min(heights), float(corners[0][0]), text.strip()))
    lines: list[list[tuple[float, float, float, str]]] = []
    for box in sorted(boxes):
        if lines and box[0] - lines[-1][0][0] < SAME_LINE * lines[-1][0][1]:
            lines[-1].append(box)
        else:
            lines.append([box])
    return "\n".join(" ".join(box[3] for box in sorted(line, key=lambda box: box[2])) for line in lines)


if __name__ == "__main__":
    from agents.ingestion.child import bounded

    bounded(int(sys.argv[1]), int(sys.argv[2]))
    main(sys.argv[3:])
