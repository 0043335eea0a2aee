"""`evals`: agents against each other on an eval set, with intervals, a sentence, and exit code 3 for a gate that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.db import transaction

from adaptrag.common.commands import DONE, FAILED, GATE_NOT_MET
from adaptrag.common.errors import InvalidInput
from agents.commands import AskingCommand
from agents.selectors import answering_variants
from agents.services import beir_collection
from evals.models import EvalRun, EvalSet
from evals.services import (
    RunRequest,
    baseline_check,
    evalrun_create,
    evalrun_execute,
    evalrun_gates,
    evalrun_get,
    evalrun_prepare,
    evalrun_regressions,
    evalrun_summary,
    evalset_default,
    evalset_from_path,
    evalset_get,
    gates_check,
)


class Command(AskingCommand):
    help = "Ask agents the questions of an eval set, score the answers, and say which differences are real."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--agents", default="", help="names or name@revision, separated by commas; the first is the baseline (default: all)"
        )
        parser.add_argument("--top-k", type=int, default=5)
        parser.add_argument("--max-questions", type=int)
        parser.add_argument("--judge", default="reference", choices=EvalRun.Judge.values)
        parser.add_argument("--judge-model", default="", help="BACKEND:MODEL, for example openai_compatible:gpt-4o-mini")
        parser.add_argument(
            "--judge-options",
            default="",
            help='its chat options as JSON: \'{"base_url": ..., "price_prompt_per_million": 0.15}\'',
        )
        parser.add_argument("--judge-blind", action="store_true", help="with --judge llm: it is not shown the gold answers")
        parser.add_argument("--pairwise", action="store_true", help="with --judge llm: also compare answers in both orders")
        parser.add_argument("--dataset", default="", help="an eval set's name, a BEIR folder or a JSON-lines file")
        parser.add_argument("--collection", help="search this collection (default: the BEIR folder's own, else the default)")
        parser.add_argument("--concurrency", type=int, default=4)
        parser.add_argument("--budget-tokens", type=int, help="stop when this many tokens are spent")
        parser.add_argument("--budget-usd", type=float, help="stop when this much is spent")
        parser.add_argument("--fail-under", type=float, help="exit with 3 if an agent's mean score is below this")
        parser.add_argument("--baseline", type=int, metavar="RUN", help="compare each agent with itself in an earlier run")
        parser.add_argument(
            "--max-regression", type=float, help="exit with 3 if an agent lost more than this against --baseline"
        )
        parser.add_argument("--resume", type=int, metavar="RUN", help="go on with a run that was interrupted")
        parser.add_argument("--retry-failed", action="store_true", help="with --resume: ask again what ended with an error")
        parser.add_argument("--name", default="", help="what the run is called in the admin")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        baseline = evalrun_get(options["baseline"]) if options["baseline"] is not None else None
        gates = {name: options[name] for name in ("fail_under", "max_regression")} | {"baseline": baseline}
        gates_check(**gates)
        with transaction.atomic():  # a run that can't be compared leaves no row
            run = self._resumed(options) if options["resume"] is not None else evalrun_create(self._request(options))
            if baseline is not None:
                baseline_check(run, baseline, gate=options["max_regression"] is not None)
        try:
            evalrun_execute(run.pk, self.progress)
        except KeyboardInterrupt:
            self.stderr.write(f"Interrupted. What is answered stays; go on with: evals --resume {run.pk}")
            self.exit_code = FAILED
        run.refresh_from_db()
        result = evalrun_summary(run)
        if baseline is not None:
            result["regressions"] = evalrun_regressions(run, baseline)
        found = evalrun_gates(run, **gates)
        result["gates"], result["gates_met"] = found.missed, found.met
        if result["gates"] and self.exit_code == DONE:
            self.exit_code = GATE_NOT_MET
        return result

    def _resumed(self, options: dict[str, Any]) -> EvalRun:
        run = evalrun_get(options["resume"])
        evalrun_prepare(
            run,
            budget_tokens=options["budget_tokens"],
            budget_usd=options["budget_usd"],
            retry_failed=options["retry_failed"],
        )
        return run

    def _request(self, options: dict[str, Any]) -> RunRequest:
        self.have_agents()
        eval_set, collection = self._dataset(options["dataset"], options["collection"])
        agents = tuple(name.strip() for name in options["agents"].split(",") if name.strip())
        if not agents:
            agents = tuple(variant.name for variant in answering_variants())
        backend, _, model = options["judge_model"].partition(":")
        return RunRequest(
            eval_set=eval_set,
            agents=agents,
            collection=collection,
            top_k=options["top_k"],
            judge=options["judge"],
            judge_backend=backend,
            judge_model=model,
            judge_options=_options(options["judge_options"]),
            judge_blind=options["judge_blind"],
            pairwise=options["pairwise"],
            max_questions=options["max_questions"],
            concurrency=options["concurrency"],
            budget_tokens=options["budget_tokens"],
            budget_usd=options["budget_usd"],
            name=options["name"],
        )

    def _dataset(self, name: str, collection: str | None) -> tuple[EvalSet, str | None]:
        """The eval set, and the collection to search: a BEIR folder brings its own documents."""
        if not name:
            return evalset_default(), collection
        path = Path(name).expanduser()
        if not path.exists():
            return evalset_get(name), collection
        eval_set = evalset_from_path(path)
        return eval_set, collection or (beir_collection(path, progress=self.progress).name if path.is_dir() else None)

    def show(self, result: dict[str, Any]) -> None:
        write = self.stdout.write
        judge = f"{result['judge']} ({result['judge_model']})" if result["judge_model"] else result["judge"]
        write(f"{result['eval_set']}, {result['questions']} questions, judge {judge}, run {result['run']} {result['state']}\n")
        header = f"{'agent':24} {'score':>7} {'95 % interval':>16} {'n':>5} {'unscored':>8} {'wins':>5} {'p50 ms':>8}"
        write(header)
        for row in result["agents"]:
            low, high = row["interval"]
            interval = "not enough data" if low is None else f"{low:.3f} to {high:.3f}"
            score = "-" if row["score"] is None else f"{row['score']:.3f}"
            latency = "-" if row["latency_ms_p50"] is None else f"{row['latency_ms_p50']:.0f}"
            write(
                f"{row['agent']:24} {score:>7} {interval:>16} {row['n']:>5} {row['unscored']:>8} {row['wins']:>5} {latency:>8}"
            )
        write("")
        for comparison in (*result["comparisons"], *result["pairwise"], *result.get("regressions", ())):
            write(comparison["sentence"])
        if result["judge_calibrated"] is False:
            write(result["judge_calibration"])
        for gate in result["gates_met"]:
            write(f"Gate met: {gate}")
        for gate in result["gates"]:
            write(f"Gate not met: {gate}")
        write(f"Results: {result['results_file']}")


def _options(text: str) -> dict[str, Any]:
    try:
        return json.loads(text or "{}")
    except ValueError as error:
        raise InvalidInput(f"--judge-options is not JSON ({error}): {text[:80]!r}.") from None
