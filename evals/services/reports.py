"""What a run found: the summary, the comparison with an earlier run, and the files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from adaptrag.common.errors import InvalidInput
from evals.models import EvalPair, EvalResult, EvalRun
from evals.selectors import Known, judge_calibration
from evals.statistics import compare, holm
from evals.summary import PairRow, ResultRow, comparison_dict, summarise, winners_of


def evalrun_summary(run: EvalRun) -> dict[str, Any]:
    """The object that `evals --json` prints, over what is answered so far."""
    labels = [variant.label for variant in run.labelled().values()]
    labels.sort(key=lambda label: label != run.baseline)
    return {
        "run": run.pk,
        "eval_set": str(run.eval_set),
        "judge": run.judge,
        "judge_model": run.judge_model,
        "judge_blind": run.judge_blind,
        **_calibration(run),
        "state": run.state,
        "top_k": run.top_k,
        "collection": run.collection.name if run.collection else None,
        **summarise(_rows(run), labels, run.baseline, _pairs(run)),
        "results_file": run.results_file,
    }


def evalrun_summary_now(run: EvalRun, known: Known | None = None) -> dict[str, Any]:
    """The summary kept at the end of a run with what is known of its judge today; computed where the run goes on."""
    if not run.summary or run.state in run.LIVE:
        return evalrun_summary(run)
    return {**run.summary, **_calibration(run, known)}


def _calibration(run: EvalRun, known: Known | None = None) -> dict[str, Any]:
    calibration = judge_calibration(run, known) if run.judge == EvalRun.Judge.LLM else None
    return {
        "judge_calibrated": calibration.calibrated if calibration else None,
        "judge_calibration": calibration.words() if calibration else "",
    }


def evalrun_regressions(run: EvalRun, baseline: EvalRun, *, failed_as_zero: bool = False) -> list[dict[str, Any]]:
    """Each agent of `run` against itself in `baseline`, over the questions that both scored; Holm over the agents.

    A question is the same where id, words and gold answers are. `failed_as_zero` counts answers that failed as 0. Raises
    InvalidInput where the runs were judged differently or share no agent with scores.
    """
    evalrun_comparable(run, baseline)
    now, before = (scores_of(one, failed_as_zero=failed_as_zero) for one in (run, baseline))
    shared = sorted(now.keys() & before.keys())
    if not shared:
        raise InvalidInput(f"Run {baseline.pk} has no scores for any agent of run {run.pk}; choose another baseline.")
    rows = []
    for agent in shared:
        questions = sorted(now[agent].keys() & before[agent].keys())
        former = f"run {baseline.pk}"
        scores = {former: [before[agent][key] for key in questions], agent: [now[agent][key] for key in questions]}
        rows += compare(scores, former)
    return [comparison_dict(row) for row in holm(rows)]


def evalrun_comparable(run: EvalRun, baseline: EvalRun) -> None:
    """Raises InvalidInput where two runs are judged differently."""
    judges = [_judged_by(one) for one in (run, baseline)]
    if judges[0] != judges[1]:
        told = " and ".join(judges)
        raise InvalidInput(f"Run {run.pk} and run {baseline.pk} were judged differently ({told}): their scores don't compare.")


def _judged_by(run: EvalRun) -> str:
    where = run.judge_options.get("base_url", "")
    return " ".join(filter(None, [run.judge, run.judge_model, where, run.judge_revision, "blind" if run.judge_blind else ""]))


def scores_of(run: EvalRun, *, failed_as_zero: bool = False) -> dict[str, dict[str, float]]:
    """Agent -> question (id, words and gold answers) -> score, of what is scored."""
    labels = run.labelled()
    scores: dict[str, dict[str, float]] = {}
    columns = ("variant_id", "score", "failed", "question__key", "question__question", "question__answers")
    for variant, score, failed, *question in run.results.values_list(*columns):
        scorable = run.judge == EvalRun.Judge.LLM or (run.judge == EvalRun.Judge.REFERENCE and question[-1])
        if failed and failed_as_zero and scorable:
            score = 0.0
        if score is not None:
            scores.setdefault(labels[variant].label, {})[json.dumps(question)] = score
    return scores


def evalrun_items(run: EvalRun) -> Iterator[dict[str, Any]]:
    """Question by question: the gold answers, every agent's answer with its scores, and the winner."""
    labels, winners = run.labelled(), winners_of(_rows(run))
    pairs = {(pair.question_id, pair.variant_id): pair for pair in run.pairs.all()}
    item: dict[str, Any] = {}
    for result in _results(run).select_related("question"):
        question = result.question
        if item.get("id") != question.key:
            if item:
                yield item
            item = {
                "id": question.key,
                "question": question.question,
                "category": question.category,
                "gold_answers": question.answers,
                "winner": winners.get(question.key),
                "agents": {},
            }
        pair = pairs.get((result.question_id, result.variant_id))
        item["agents"][labels[result.variant_id].label] = _as_dict(result) | {"pairwise": pair and pair_dict(pair)}
    if item:
        yield item


def pair_dict(pair: EvalPair) -> dict[str, Any]:
    """The judge's preference against the baseline's answer to the same question."""
    return {
        "outcome": pair.outcome,
        "consistent": pair.consistent,
        "explanations": pair.explanations,
        "model": pair.model,
        "revision": pair.revision,
        "references": pair.references,
        "error": pair.error,
        "judge_tokens": pair.judge_tokens,
        "judge_cost_usd": pair.judge_cost_usd,
    }


def _as_dict(result: EvalResult) -> dict[str, Any]:
    return {
        "answer": result.answer,
        "score": result.score,
        "metrics": result.metrics,
        "judgement": result.judgement,
        "error": result.error,
        "model": result.model,
        "latency_ms": round(result.latency_ms, 1),
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "cost_usd": result.cost_usd,
        "judge_tokens": result.judge_tokens,
        "judge_cost_usd": result.judge_cost_usd,
        "sources": [source["document"] for source in result.sources],
    }


def evalrun_json(run: EvalRun) -> str:
    return json.dumps({**evalrun_summary_now(run), "questions": list(evalrun_items(run))}, ensure_ascii=False, indent=1)


def evalrun_csv(run: EvalRun) -> Iterable[str]:
    """One line for each answer. Texts that a spreadsheet would run as a formula begin with an apostrophe."""
    names = sorted({name for metrics in run.results.values_list("metrics", flat=True) for name in metrics})
    plain = ["answer", "score", "model", "latency_ms", "prompt_tokens", "completion_tokens", "cost_usd"]
    plain += ["judge_tokens", "judge_cost_usd"]
    calibrated = {None: "", True: "yes", False: "no"}[_calibration(run)["judge_calibrated"]]
    paired = ["pairwise", "pairwise_consistent", "pairwise_explanations"] if run.pairwise else []
    yield _line(
        ["id", "question", "gold_answers", "agent", *plain, "explanation", "judge_calibrated", "error", *paired, *names]
    )
    for item in evalrun_items(run):
        for agent, row in item["agents"].items():
            yield _line(
                [item["id"], item["question"], " | ".join(item["gold_answers"]), agent]
                + [row[name] for name in plain]
                + [(row["judgement"] or {}).get("explanation", ""), calibrated, (row["error"] or {}).get("message", "")]
                + (_pair_cells(row["pairwise"]) if paired else [])
                + [row["metrics"].get(name) for name in names]
            )


def _pair_cells(pair: dict[str, Any] | None) -> list[Any]:
    return [pair["outcome"], pair["consistent"], " | ".join(pair["explanations"])] if pair else ["", "", ""]


def _line(cells: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(
        f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in cells
    )
    return buffer.getvalue()


def results_path(run: EvalRun) -> Path:
    return _folder() / f"results-run-{run.pk}.json"


def write_results(run: EvalRun) -> None:
    """data/eval/results-run-N.json, and the same as results.json, the newest run's."""
    text = json.dumps({**run.summary, "questions": list(evalrun_items(run))}, ensure_ascii=False, indent=1)
    for path in (results_path(run), _folder() / "results.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        aside.write_text(text)
        aside.replace(path)


def _folder() -> Path:
    return settings.DATA_DIR / "data" / "eval"


def _results(run: EvalRun) -> Any:
    return run.results.order_by("question__ordinal", "variant__name", "variant__revision").defer("trace")


def _rows(run: EvalRun) -> list[ResultRow]:
    labels = run.labelled()
    return [
        ResultRow(
            question=result.question.key,
            agent=labels[result.variant_id].label,
            score=result.score,
            latency_ms=result.latency_ms,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            cost_usd=result.cost_usd,
            failed=result.failed,
            judge_tokens=result.judge_tokens,
            judge_cost_usd=result.judge_cost_usd,
            metrics=result.metrics,
        )
        for result in _results(run).select_related("question").defer("sources", "trace", "answer")
    ]


def _pairs(run: EvalRun) -> list[PairRow]:
    labels = run.labelled()
    return [
        PairRow(
            agent=labels[pair.variant_id].label,
            outcome=pair.outcome,
            consistent=pair.consistent,
            judge_tokens=pair.judge_tokens,
            judge_cost_usd=pair.judge_cost_usd,
        )
        for pair in run.pairs.all()
    ]
