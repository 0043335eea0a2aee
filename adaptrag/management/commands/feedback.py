"""`feedback ID REWARD`: rate an answer from the command line."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from rewards.services import feedback_record


class Command(ContractCommand):
    help = "Rate an interaction with a reward from 0 to 1."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("interaction")
        parser.add_argument("reward", type=float)
        parser.add_argument("--correction", default="", help="what the answer should have been")
        parser.add_argument("--comment", default="")
        parser.add_argument("--rater", help="who rates (default: cli:<login name>)")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        outcome = feedback_record(
            interaction_id=options["interaction"],
            reward=options["reward"],
            rater=options["rater"] or f"cli:{getpass.getuser()}",
            correction=options["correction"],
            comment=options["comment"],
        )
        return {"outcome": outcome.outcome, "reward": outcome.reward.value, "arm": outcome.arm}

    def show(self, result: dict[str, Any]) -> None:
        self.stdout.write(f"Reward {result['reward']:g}: {result['outcome']}.")
        if arm := result["arm"]:
            self.stdout.write(
                f"{arm['agent']} on {arm['category']} questions: mean {arm['mean']:.3f} over {arm['pulls']:g} rated."
            )
        else:
            self.stdout.write("It counts for no arm.")
