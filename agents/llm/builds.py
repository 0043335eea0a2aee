"""Quantized builds: folders that say in build.json how their weights are to be read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings

from agents.errors import ChatModelUnavailable

FILE = "build.json"
ARTIFACTS = "artifacts"  # under the data folder


@dataclass(frozen=True, kw_only=True)
class Build:
    mode: str
    base_model: str  # name or folder of the model that it was made of
    precision: str = "fp32"  # of the merge


def read_build(folder: Path) -> Build | None:
    """None for a folder that is an ordinary model. Raises ChatModelUnavailable for a build.json that can't be read."""
    try:
        text = (folder / FILE).read_text()
    except FileNotFoundError:
        return None
    try:
        return Build(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ChatModelUnavailable(f"The build in {folder} has an unreadable {FILE} ({error}); quantize again.") from error


def write_build(folder: Path, build: Build) -> None:
    (folder / FILE).write_text(json.dumps(asdict(build), indent=2))


def artifact_folder(name: str) -> Path | None:
    """Folder of a build of this site by its artifact's name, which is never used again."""
    if not name or Path(name).name != name:
        return None
    folder = Path(settings.DATA_DIR) / ARTIFACTS / name
    return folder if (folder / FILE).is_file() else None
