"""`replay`: what a policy would have earned on a log in which every arm's reward is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from adaptrag.common.errors import InvalidInput
from evals.logs import RoutingLog, read_routing_log
from evals.policies import policy_from_spec
from evals.replay import ReplayResult, compare, replay
from rewards.bandit import POLICIES, Policy


class Command(ContractCommand):
    help = (
        "Replay a policy over a routing log (JSON lines with every arm's reward, plain or .gz): mean reward and regret over "
        "random orders, with intervals."
    )

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument(
            "--policy", default="hierarchical_thompson", metavar="P", help="a kind, or kind:parameter=value,... (the default)"
        )
        parser.add_argument("--shuffles", type=int, default=20, help="random orders of the rows (20)")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--compare", action="store_true", help="every policy over the same orders, best first")
        parser.add_argument(
            "--embeddings", type=Path, metavar="NPY", help="the questions' embeddings, (n, E); else they are made for lints"
        )

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        log = read_routing_log(options["file"])
        if options["shuffles"] < 1:
            raise InvalidInput(f"--shuffles must be at least 1, not {options['shuffles']}.")
        given = {"shuffles": options["shuffles"], "seed": options["seed"]}
        if not options["compare"]:
            policy = policy_from_spec(options["policy"])
            return _run(
                replay, log, policy, progress=lambda done: self.progress(done, policy.kind),
                embeddings=self._embeddings(log, options["embeddings"]) if policy.reads_question else None, **given,
            ).as_dict()  # fmt: skip
        policies = [cls.from_parameters({}) for cls in POLICIES.values()]
        readable = options["embeddings"] or all(log.questions)
        left_out = [] if readable else [policy.kind for policy in policies if policy.reads_question]
        if left_out:
            self.stderr.write(
                f'Some rows have no "question", so without --embeddings these are left out: {", ".join(left_out)}.'
            )
        embeddings = self._embeddings(log, options["embeddings"]) if readable else None
        policies = [policy for policy in policies if policy.kind not in left_out]
        results = _run(compare, log, policies, embeddings=embeddings, progress=lambda done: self.progress(done, ""), **given)
        return {"policies": [result.as_dict() for result in results], "left_out": left_out}

    def _embeddings(self, log: RoutingLog, path: Path | None) -> np.ndarray:
        if path is not None:
            try:
                found = np.load(path)
            except (OSError, ValueError) as error:
                raise InvalidInput(f"{path} holds no array of numpy: {error}") from error
            if found.ndim != 2 or len(found) != len(log):
                raise InvalidInput(f"{path} has shape {found.shape}; {len(log)} rows of embeddings are needed.")
            return found
        if not all(log.questions):
            raise InvalidInput('This policy reads the questions, but some rows have no "question". Give --embeddings.')
        from agents.retrieval.embedding import embedder
        from agents.retrieval.encoders import embed_batches

        result: np.ndarray | None = None
        done = 0
        for rows, vectors in embed_batches(embedder(), log.questions, 1):
            result = np.empty((len(log), vectors.shape[1]), dtype=np.float32) if result is None else result
            result[rows] = vectors
            done += len(rows)
            self.progress(min(done / len(log), 0.999), "embedding questions")
        return result

    def show(self, result: dict[str, Any]) -> None:
        rows: Sequence[dict[str, Any]] = result.get("policies") or [result]
        first = rows[0]
        self.stdout.write(f"{first['rows']:,} rows, {len(first['arms'])} arms, {first['shuffles']} orders")
        self.stdout.write(
            f"{'policy':34} {'mean reward':>11}  {'95 % interval':16} {'regret':>8}  {'95 % interval':18} {'to the oracle':>13}"
        )
        for row in rows:
            within, missed = _interval(row["interval"], 4), _interval(row["regret_interval"], 1)
            figures = (
                f"{row['mean_reward']:11.4f}  {within:16} {row['regret']:8.1f}  {missed:18} {row['regret_to_oracle']:13.1f}"
            )
            self.stdout.write(f"{row['policy']:34} {figures}")
        best = first["best_fixed"]
        self.stdout.write(f"{'best fixed arm: ' + best['arm']:34} {best['mean_reward']:11.4f}")
        self.stdout.write(f"{'oracle':34} {first['oracle']:11.4f}")


def _interval(bounds: list[float] | None, digits: int) -> str:
    return "-" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def _run(function: Any, log: RoutingLog, what: Policy | list[Policy], **given: Any) -> ReplayResult | list[ReplayResult]:
    try:
        return function(log, what, **given)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
