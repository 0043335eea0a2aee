"""`run_quantized`: a model in one or several modes, loaded, asked once, timed."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from agents.llm.weights import DEFAULT_MODEL
from training.quantization import MODES
from training.services.trials import UNQUANTIZED, quantized_try


class Command(ContractCommand):
    help = "Load a model in one or several modes, ask it once, and print times, memory and speeds."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--model", default=DEFAULT_MODEL, help="smollm2, a folder, a build's name, or a hub name (%(default)s)"
        )
        parser.add_argument("--adapter", default="", help="name or number of an adapter's artifact, or its folder")
        parser.add_argument("--mode", default=UNQUANTIZED, help=f"one or several of {','.join(MODES)} (%(default)s)")
        parser.add_argument("--question", default="What is a model?", help="(%(default)s)")
        parser.add_argument("--max-tokens", type=int, default=32, help="(%(default)s)")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        rows = quantized_try(
            options["model"],
            options["adapter"],
            [mode.strip() for mode in options["mode"].split(",") if mode.strip()],
            question=options["question"],
            max_tokens=options["max_tokens"],
            on_progress=self.progress,
        )
        return {"rows": rows}

    def show(self, result: dict[str, Any]) -> None:
        columns = (
            ("mode", "mode", str), ("load s", "load_seconds", "{:.1f}".format),
            ("weights MB", "weights_bytes", lambda size: f"{size / 1e6:.0f}"),
            ("peak MB", "peak_memory_bytes", lambda size: f"{size / 1e6:.0f}"),
            ("read tok/s", "prefill_tokens_per_second", "{:.0f}".format),
            ("write tok/s", "decode_tokens_per_second", "{:.1f}".format),
            ("eight, tok/s", "decode_8_tokens_per_second", "{:.0f}".format), ("answer ms", "latency_ms", "{:.0f}".format),
        )  # fmt: skip
        lines = [[title for title, _, _ in columns]]
        lines += [[form(row[key]) for _, key, form in columns] for row in result["rows"]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            self.stdout.write("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
        for row in result["rows"]:
            self.stdout.write(f"\n{row['mode']}: {row['answer']}")
