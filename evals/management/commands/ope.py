"""`ope`: what another policy would have been worth, from what was logged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import InvalidInput
from evals.estimates import estimated
from evals.logs import LoggedRounds, read_logged_rounds
from evals.ope import ESTIMATORS
from evals.ope.target import frequencies, policy_probabilities, uniform
from evals.policies import policy_from_spec

SITE = "log"


class Command(ContractCommand):
    help = "Estimate the value of a policy from logged decisions and their propensities, with intervals."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            metavar="FILE_OR_LOG",
            help=f"JSON lines with arm, reward, propensity, for lints a numeric context (plain, .gz); or {SITE}: this site's",
        )
        parser.add_argument(
            "--policy", default="uniform", metavar="P",
            help="uniform, a kind, kind:parameter=value,..., or frequencies:FILE (as often as in another log; approximate)",
        )  # fmt: skip
        parser.add_argument("--estimator", default="ips,snips,dm,dr", help="some of ips, snips, dm, dr")
        parser.add_argument("--clip", type=float, default=math.inf, help="cut importance weights to this")
        parser.add_argument("--interval", default="asymptotic", choices=("asymptotic", "bootstrap"))
        parser.add_argument("--min-share", type=float, default=0.0, help="floor of every arm's share under the policy")
        parser.add_argument("--seed", type=int, default=0)

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        names = [name.strip() for name in options["estimator"].split(",") if name.strip()]
        if not names or (unknown := [name for name in names if name not in ESTIMATORS]):
            wrong = unknown[0] if names else options["estimator"]
            raise InvalidInput(f"Unknown estimator {wrong!r}; there are {', '.join(ESTIMATORS)}.")
        left_out: dict[str, int] = {}
        spec = options["policy"]
        try:
            if options["file"] == SITE:
                from evals.site_log import site_log

                log = site_log(reads_question=_reads_question(spec))
                rounds, target, left_out = *log.judged(self._target(log.rounds, options, log)), log.left_out
            else:
                rounds = read_logged_rounds(Path(options["file"]), contexts=_reads_question(spec))
                target = self._target(rounds, options)
            found = estimated(
                rounds, target, names, clip=options["clip"], interval=options["interval"], seed=options["seed"],
            )  # fmt: skip
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        return {"policy": spec, **found, "left_out": left_out}

    def _target(self, rounds: LoggedRounds, options: dict[str, Any], log: Any = None) -> Any:
        spec = options["policy"]
        if spec == "uniform":
            return uniform(rounds)
        if spec.startswith("frequencies:"):
            return frequencies(rounds, read_logged_rounds(Path(spec.removeprefix("frequencies:"))))
        site = {"embeddings": rounds.contexts} if log is None else {"priors": log.priors, "embeddings": log.embeddings}
        return policy_probabilities(
            rounds, policy_from_spec(spec), min_share=options["min_share"], seed=options["seed"],
            progress=lambda done: self.progress(done, "walking through the log"), **site,
        )  # fmt: skip

    def show(self, result: dict[str, Any]) -> None:
        if result["left_out"]:
            self.stdout.write("Left out: " + ", ".join(f"{n} {why}" for why, n in result["left_out"].items()))
        self.stdout.write(
            f"{result['policy']}: {result['n']:,} rounds, as good as {result['effective_sample_size']:,.0f} of its own; "
            f"their mean reward is {result['logged_mean']:.4f}"
        )
        for row in result["estimates"]:
            low, high = row["interval"]
            self.stdout.write(f"{row['estimator']:6} {row['value']:.4f}  ({low:.4f} to {high:.4f})")
        if not result["conclusive"]:
            self.stdout.write(f"No conclusion: {result['complaint']}")


def _reads_question(spec: str) -> bool:
    return not (spec == "uniform" or spec.startswith("frequencies:")) and policy_from_spec(spec).reads_question
