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
from evals.models import EvalResult, EvalRun
from evals.selectors import judge_calibration
from evals.statistics import compare, holm
from evals.summary import PairRow, ResultRow, comparison_dict, summarise, winners_of


def evalrun_summary(run: EvalRun) -> dict[str, Any]:
    """The object that `evals --json` prints, over what is answered so far."""
    labels = [variant.label for variant in run.labelled().values()]
    labels.sort(key=lambda label: label != run.baseline)
    calibration = judge_calibration(run) if run.judge == EvalRun.Judge.LLM else None
    return {
        "run": run.pk,
        "eval_set": str(run.eval_set),
        "judge": run.judge,
        "judge_model": run.judge_model,
        "judge_calibrated": calibration.calibrated if calibration else None,
        "judge_calibration": calibration.words() if calibration else "",
        "state": run.state,
        "top_k": run.top_k,
        "collection": run.collection.name if run.collection else None,
        **summarise(_rows(run), labels, run.baseline, _pairs(run)),
        "results_file": run.results_file,
    }


def evalrun_regressions(run: EvalRun, baseline: EvalRun) -> list[dict[str, Any]]:
    """Each agent of `run` against itself in `baseline`, over the questions that both scored; Holm over the agents.

    A question is the same where id, words and gold answers are. Raises InvalidInput where the runs were judged differently or
    share no agent with scores.
    """
    judges = [(one.judge, one.judge_model, one.judge_revision) for one in (run, baseline)]
    if judges[0] != judges[1]:
        told = " and ".join(f"{judge} {model} {revision}".strip() for judge, model, revision in judges)
        raise InvalidInput(f"Run {run.pk} and run {baseline.pk} were judged differently ({told}): their scores don't compare.")
    now, before = _scores(run), _scores(baseline)
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


def _scores(run: EvalRun) -> dict[str, dict[str, float]]:
    labels = run.labelled()
    scores: dict[str, dict[str, float]] = {}
    columns = ("variant_id", "score", "question__key", "question__question", "question__answers")
    for variant, score, *question in run.results.exclude(score=None).values_list(*columns):
        scores.setdefault(labels[variant].label, {})[json.dumps(question)] = score
    return scores


def evalrun_items(run: EvalRun) -> Iterator[dict[str, Any]]:
    """Question by question: the gold answers, every agent's answer with its scores, and the winner."""
    labels, winners = run.labelled(), winners_of(_rows(run))
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
        item["agents"][labels[result.variant_id].label] = _as_dict(result)
    if item:
        yield item


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
        "sources": [source["document"] for source in result.sources],
    }


def evalrun_json(run: EvalRun) -> str:
    return json.dumps({**evalrun_summary(run), "questions": list(evalrun_items(run))}, ensure_ascii=False, indent=1)


def evalrun_csv(run: EvalRun) -> Iterable[str]:
    """One line for each answer. Texts that a spreadsheet would run as a formula begin with an apostrophe."""
    names = sorted({name for metrics in run.results.values_list("metrics", flat=True) for name in metrics})
    plain = ["answer", "score", "model", "latency_ms", "prompt_tokens", "completion_tokens", "cost_usd"]
    yield _line(["id", "question", "gold_answers", "agent", *plain, "explanation", "error", *names])
    for item in evalrun_items(run):
        for agent, row in item["agents"].items():
            yield _line(
                [item["id"], item["question"], " | ".join(item["gold_answers"]), agent]
                + [row[name] for name in plain]
                + [(row["judgement"] or {}).get("explanation", ""), (row["error"] or {}).get("message", "")]
                + [row["metrics"].get(name) for name in names]
            )


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
            failed=bool(result.error) and not result.model,
            metrics=result.metrics,
        )
        for result in _results(run).select_related("question").defer("sources", "trace", "answer")
    ]


def _pairs(run: EvalRun) -> list[PairRow]:
    labels = run.labelled()
    rows = run.pairs.values_list("variant_id", "outcome", "consistent")
    return [PairRow(agent=labels[variant].label, outcome=outcome, consistent=same) for variant, outcome, same in rows]
