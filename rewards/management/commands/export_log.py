"""`export_log [--out FILE]`: interactions and rewards as JSON lines."""

from __future__ import annotations

import gzip
import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils import timezone

from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import AdaptRAGError
from rewards.services import log_export


class Command(ContractCommand):
    help = "Write the log, interactions and rewards, as JSON lines: to stdout, or to a file."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--out", type=Path, metavar="FILE", help="file to write, compressed if it ends in .gz (with --json: a default one)"
        )

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        out = options["out"]
        if out is None and not options["json"]:
            log_export(self.stdout, self.progress)
            return {}
        if out is None:
            out = Path(settings.DATA_DIR) / "exports" / f"reward_log-{timezone.now():%Y%m%dT%H%M%S}.jsonl"
            out.parent.mkdir(exist_ok=True)
        try:
            with _whole(out) as handle:
                result = log_export(handle, self.progress)
        except OSError as error:
            raise AdaptRAGError(f"{out} can't be written: {error.strerror}. Name another file with --out.") from error
        return {"file": str(out), "interactions": result.interactions, "rewards": result.rewards}

    def show(self, result: dict[str, Any]) -> None:
        if result:
            self.stdout.write(f"{result['interactions']} interactions and {result['rewards']} rewards in {result['file']}")


@contextmanager
def _whole(path: Path) -> Any:
    """A text file that appears under its name only once it is complete."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb") as packed, _text(packed) as handle:
                    yield handle
            else:
                with _text(raw) as handle:
                    yield handle
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _text(raw: Any) -> TextIO:
    return io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
