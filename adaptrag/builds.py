"""What an evaluation found of a build, carried to its quantization's report: training and evals don't know each other."""

from __future__ import annotations

import math
from typing import Any

from adaptrag.common.errors import InvalidInput
from agents.models import AgentVariant
from evals.models import EvalRun
from evals.statistics import compare, mean_interval
from training.models import QuantizationReport
from training.services import quantization_quality_set


def quantization_quality_from(report: QuantizationReport, run: EvalRun) -> QuantizationReport:
    """Token F1, and the score where a judge scored, of the agent with the build against the one with the unquantized model.

    That is the agent with the adapter that was merged, or with the model alone. Answers by a fall-back model are left out.
    Raises InvalidInput where the run did not ask both.
    """
    variants = list(run.variants.select_related("artifact"))
    build = _only([one for one in variants if one.artifact_id and one.artifact_id == report.artifact_id])
    before = _only([one for one in variants if _unquantized(one, report)])
    if build is None or before is None:
        raise InvalidInput(
            f"{run} must ask one agent with the build {report.artifact} and one with the unquantized model "
            f"({report.adapter or report.base_model}), and no second of either.",
            field="eval_run",
        )
    quality: dict[str, Any] = {"eval_run": run.pk, "eval_set": str(run.eval_set)}
    scored = {"token_f1": lambda row: row.metrics.get("token_f1")}
    if run.judge == EvalRun.Judge.LLM:
        scored["judge_score"] = lambda row: row.score
    for name, score in scored.items():
        values = {
            one.pk: {row.question_id: score(row) for row in run.results.filter(variant=one) if row.own}
            for one in (build, before)
        }
        shared = sorted(key for key in values[build.pk].keys() & values[before.pk].keys())
        pairs = [(values[build.pk][key], values[before.pk][key]) for key in shared]
        pairs = [pair for pair in pairs if None not in pair and not math.isnan(sum(pair))]
        if len(pairs) > 1:
            own, other = map(list, zip(*pairs, strict=True))
            (found,) = compare({"before": other, "build": own}, "before")
            quality[name] = {
                "value": mean_interval(own).mean, "unquantized": mean_interval(other).mean, "difference": found.difference,
                "interval": [found.low, found.high], "n": found.n,
            }  # fmt: skip
    if "token_f1" not in quality:
        raise InvalidInput(
            f"{run} has fewer than two answers with gold answers to compare; evaluate on more.", field="eval_run"
        )
    return quantization_quality_set(report, quality)


def _unquantized(variant: AgentVariant, report: QuantizationReport) -> bool:
    if report.adapter_id is not None:
        return variant.artifact_id == report.adapter_id
    return variant.artifact_id is None and variant.chat_backend == "local" and variant.chat_model in ("", report.base_model)


def _only(found: list[AgentVariant]) -> AgentVariant | None:
    return found[0] if len(found) == 1 else None
