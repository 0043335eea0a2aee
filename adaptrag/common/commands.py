"""What every management command shares: --json, progress on stderr, and the exit codes 0, 1, 2, 3."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from adaptrag.common.errors import AdaptRAGError, InvalidInput

DONE, FAILED, WRONG_USAGE, GATE_NOT_MET = 0, 1, 2, 3


class ContractCommand(BaseCommand):
    """Subclasses define `arguments` and `run`, which returns the object that --json prints (and `show` tells in words).

    Data goes to stdout, progress and errors to stderr. An AdaptRAGError ends with its message and exit code 1 (2 where the
    given values were wrong); `run` may end with another code through `self.exit_code`.
    """

    exit_code = DONE

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
        self.arguments(parser)

    def arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def show(self, result: dict[str, Any]) -> None:
        """Print the result in words; by default as JSON."""
        self.stdout.write(json.dumps(result, ensure_ascii=False, indent=2, default=str))

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            result = self.run(options)
        except AdaptRAGError as error:
            self.stderr.write(error.message)
            sys.exit(WRONG_USAGE if isinstance(error, InvalidInput) else FAILED)
        if options["json"]:
            self.stdout.write(json.dumps(result, ensure_ascii=False, default=str))
        else:
            self.show(result)
        if self.exit_code:
            sys.exit(self.exit_code)

    def progress(self, fraction: float, message: str = "") -> None:
        """Draw a bar on stderr where that is a terminal."""
        if sys.stderr.isatty():
            filled = round(30 * max(0.0, min(1.0, fraction)))
            end = "\n" if fraction >= 1 else ""
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {fraction:4.0%} {message[:60]:<60}{end}")
            sys.stderr.flush()
