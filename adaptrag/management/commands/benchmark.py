"""`benchmark NAME`: the measurements of benchmarks/, each a module with `arguments(parser)` and `run(options, progress)`."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand

FOLDER = Path(settings.BASE_DIR) / "benchmarks"


def names() -> list[str]:
    """The measurements that there are: modules of benchmarks/ that define `run`."""
    return sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if "\ndef run(" in path.read_text())


class Command(ContractCommand):
    help = "Run a measurement of benchmarks/ and print its table."

    def arguments(self, parser: CommandParser) -> None:
        choices = parser.add_subparsers(dest="benchmark", required=True, metavar="|".join(names()))
        for name in names():
            module = importlib.import_module(f"benchmarks.{name}")
            sub = choices.add_parser(name, help=(module.__doc__ or "").strip().split("\n")[0])
            sub.add_argument(
                "--json",
                action="store_true",
                default=argparse.SUPPRESS,
                help="print one JSON object and nothing else on stdout",
            )
            module.arguments(sub)

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        module = importlib.import_module(f"benchmarks.{options['benchmark']}")
        rows = module.run(options, self.progress)
        return {"benchmark": options["benchmark"], "machine": machine(), "commit": commit(), "rows": rows}

    def show(self, result: dict[str, Any]) -> None:
        self.stdout.write(f"{result['benchmark']} on {result['machine']}, commit {result['commit']}\n")
        self.stdout.write(table(result["rows"]))


def machine() -> str:
    """'2 x AMD EPYC ..., 7.8 GiB, Python 3.11.2'."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = models[0] if models else platform.machine()
    return f"{os.cpu_count()} x {processor}, {memory:.1f} GiB, Python {platform.python_version()}"


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=settings.BASE_DIR, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, so that it can be pasted into benchmarks/README.md."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
