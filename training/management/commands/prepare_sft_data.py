"""`prepare_sft_data`: rated interactions as a frozen dataset and as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from agents.llm.weights import DEFAULT_MODEL
from training.services import DatasetRequest, dataset_prepare
from training.services.datasets import DEFAULT_FILE
from training.sft import SOURCES


class Command(ContractCommand):
    help = "Make a frozen dataset for fine-tuning from the log: question, passages as the agent saw them, best answer."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--min-reward", type=float, default=0.8, help="least mean rating of an answer to learn from (0.8)")
        parser.add_argument("--source", default="all", choices=list(SOURCES), help="where targets may come from (all)")
        parser.add_argument("--out", type=Path, help=f"copy of the training file (beside {DEFAULT_FILE})")
        parser.add_argument("--model", default=DEFAULT_MODEL, help="the student, whose tokenizer counts (smollm2)")
        parser.add_argument("--max-tokens", type=int, help="longest example (ADAPTRAG_SFT_MAX_TOKENS, and the model's window)")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        dataset = dataset_prepare(
            DatasetRequest(
                min_reward=options["min_reward"],
                source=options["source"],
                student=options["model"],
                max_tokens=options["max_tokens"],
                out=options["out"],
            )
        )
        return {
            "dataset": dataset.pk,
            "source": dataset.source,
            "sha256": dataset.sha256,
            "path": str(options["out"].resolve() if options["out"] else dataset.file),
            **dataset.counts,
            "filters": dataset.filters,
        }

    def show(self, result: dict[str, Any]) -> None:
        if result["source"] == "builtin":
            self.stdout.write("Nothing was rated yet: these are the built-in questions over the handbook, no data of yours.")
        self.stdout.write(f"Dataset {result['dataset']}: {result['train']} to train on, {result['validation']} to validate.")
        for name, number in result["origins"].items():
            self.stdout.write(f"  {number} from {name}")
        if result["cut"] or result["scrubbed"]:
            self.stdout.write(f"  {result['cut']} lost passages to the limit of tokens, {result['scrubbed']} had text scrubbed")
        for reason, number in result["left_out"].items():
            self.stdout.write(f"  left out {number}: {reason}")
        self.stdout.write(f"{result['path']}\nTrain on it: python manage.py train_lora --dataset {result['dataset']}")
