"""`demo`: what `make demo` runs."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from adaptrag.common.commands import FAILED
from adaptrag.common.errors import AdaptRAGError
from adaptrag.ops.demo import Address, run


class Command(BaseCommand):
    help = "Prepare and start a whole site on this machine, ask it one question, and watch over it until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        port = os.environ.get("PORT") or "8000"
        parser.add_argument("--port", type=int, default=port, help="port to listen on, or PORT in the environment (8000)")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument("--once", action="store_true", help="stop after the question")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            run(Address(host=options["host"], port=options["port"]), stay=not options["once"], say=self._say)
        except AdaptRAGError as error:
            self.stderr.write(error.message)
            sys.exit(FAILED)

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
