"""`import_log FILE`: interactions and rewards from JSON lines, the predecessor's reward_log.jsonl included."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import AdaptRAGError
from rewards.services import log_import


class Command(ContractCommand):
    help = "Import interactions and rewards from JSON lines (plain or .gz). Importing the same file again changes nothing."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--on-error",
            choices=["skip", "stop"],
            default="skip",
            help="at a bad line: name it and go on (default), or stop and leave everything as it was",
        )
        parser.add_argument(
            "--create-missing",
            "--create-agents",
            action="store_true",
            help="add agents (retired) and collections that the log names and this site lacks",
        )

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        path = options["file"]
        try:
            with _Lines(path) as lines:
                result = log_import(
                    lines,
                    on_error=options["on_error"],
                    create_missing=options["create_missing"],
                    progress=self.progress,
                )
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise AdaptRAGError(
                f"{path} is a damaged .gz file ({error}). Whole batches before the damage may be in."
            ) from error
        except OSError as error:
            raise AdaptRAGError(f"{path} can't be read: {error.strerror}.") from error
        for error in result.errors:
            self.stderr.write(error["message"])
        if result.skipped > len(result.errors):
            self.stderr.write(f"... and {result.skipped - len(result.errors)} more")
        return result.as_dict()

    def show(self, result: dict[str, Any]) -> None:
        names = (name for name in result if name != "errors")
        self.stdout.write("\n".join(f"{name.replace('_', ' ')}: {result[name]}" for name in names))


class _Lines:
    """The lines of a file, unpacked where it is gzip; `fraction` tells how much of it has been read."""

    def __init__(self, path: Path) -> None:
        self.raw = path.open("rb")
        self.size = max(path.stat().st_size, 1)
        packed = self.raw.peek(2)[:2] == b"\x1f\x8b"
        self.handle = gzip.GzipFile(fileobj=self.raw) if packed else self.raw

    @property
    def fraction(self) -> float:
        return min(self.raw.tell() / self.size, 1.0)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.handle)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *args: object) -> None:
        self.raw.close()
