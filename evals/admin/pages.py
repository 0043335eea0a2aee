"""What the pages of a run show, ready for their templates."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from evals.models import EvalQuestion, EvalResult, EvalRun

DIFF_WORDS = 400  # of each text; longer ones are cut, for a diff costs the square of it
BINS = 10
POINTS = 500  # answers that the scatter chart shows of an agent


@dataclass(frozen=True, kw_only=True)
class Enough:
    """An agent's row of the summary as the whisker template wants it."""

    row: Mapping[str, Any]

    mean = property(lambda self: self.row["score"])
    low = property(lambda self: _first(self.row["interval"][0], self.row["score"]))
    high = property(lambda self: _first(self.row["interval"][1], self.row["score"]))
    enough = property(lambda self: self.row["n"] >= 20)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def distribution(scores: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A histogram of scores, the agents' bars side by side."""
    labels = [f"{index / BINS:.1f}" for index in range(BINS)]
    datasets = []
    for index, (agent, values) in enumerate(scores.items()):
        counts = [0] * BINS
        for value in values:
            counts[min(int(value * BINS), BINS - 1)] += 1
        datasets.append({"label": agent, "data": counts, "backgroundColor": _hue(index), "stack": agent})
    return {"labels": labels, "datasets": datasets}


def score_against_latency(points: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """points: agent -> (milliseconds, score) of its answers."""
    return {
        "x": "seconds",
        "y": "score",
        "datasets": [
            {
                "label": agent,
                "data": [{"x": round(ms / 1000, 3), "y": score} for ms, score in values[:POINTS]],
                "backgroundColor": _hue(index),
            }
            for index, (agent, values) in enumerate(points.items())
        ],
    }


def reliability(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> dict[str, Any]:
    """curves: name -> (mean judge score, mean reference, pairs) per bin; a calibrated judge lies on the diagonal."""
    diagonal = {"label": "perfect", "data": [{"x": 0, "y": 0}, {"x": 1, "y": 1}], "showLine": True, "pointRadius": 0}
    return {
        "x": "judge's score",
        "y": "reference",
        "unit": True,
        "datasets": [
            diagonal | {"borderColor": "var(--ar-axis)", "borderDash": [4, 4], "borderWidth": 1},
            *(
                {
                    "label": name,
                    "data": [{"x": x, "y": y, "n": n} for x, y, n in curve],
                    "showLine": True,
                    "borderColor": _hue(index),
                    "backgroundColor": _hue(index),
                    "pointRadius": 4,
                }
                for index, (name, curve) in enumerate(curves.items())
                if curve
            ),
        ],
    }


def _hue(index: int) -> str:
    return f"var(--ar-hue-{index % 8 + 1})"


def diff_html(before: str, after: str) -> SafeString:
    """`after` word by word: what `before` lacks is marked <ins>, what it had and is gone <del>. Everything is escaped."""
    left, right = (re.findall(r"\s+|[^\s]+", text)[: 2 * DIFF_WORDS] for text in (before, after))
    parts: list[tuple[SafeString]] = []
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append((format_html("{}", "".join(right[j1:j2])),))
            continue
        if i1 < i2:
            parts.append((format_html("<del>{}</del>", "".join(left[i1:i2])),))
        if j1 < j2:
            parts.append((format_html("<ins>{}</ins>", "".join(right[j1:j2])),))
    return format_html_join("", "{}", parts)


def ranked_questions(run: EvalRun) -> list[tuple[int, float | None]]:
    """(question, change) of everything answered, the biggest loss against the baseline first, unscored last.

    change: the worst difference of an agent's score to the baseline's; with one agent alone, its score.
    """
    labels = run.labelled()
    baseline = next(pk for pk, variant in labels.items() if variant.label == run.baseline)
    scores: dict[int, dict[int, float | None]] = {}
    for question, variant, score in run.results.order_by().values_list("question_id", "variant_id", "score"):
        scores.setdefault(question, {})[variant] = score
    ranked = []
    for question, given in scores.items():
        ranked.append((question, _change(given, baseline, alone=len(labels) == 1)))
    return sorted(ranked, key=lambda pair: (pair[1] is None, pair[1] or 0.0, pair[0]))


def _change(scores: Mapping[int, float | None], baseline: int, *, alone: bool) -> float | None:
    base = scores.get(baseline)
    others = [score for variant, score in scores.items() if variant != baseline and score is not None]
    if alone or base is None:
        return base
    return min(others) - base if others else None


def items(run: EvalRun, ranked: Sequence[tuple[int, float | None]]) -> list[dict[str, Any]]:
    """The questions in the order given, with every agent's answer beside the baseline's."""
    labels = run.labelled()
    order = sorted(labels.values(), key=lambda variant: variant.label != run.baseline)
    questions = EvalQuestion.objects.in_bulk([question for question, _ in ranked])
    found: dict[tuple[int, int], EvalResult] = {}
    for result in run.results.filter(question__in=questions).defer("sources", "trace"):
        found[result.question_id, result.variant_id] = result
    pairs = {(pair.question_id, pair.variant_id): pair for pair in run.pairs.filter(question__in=questions)}
    rows = []
    for number, change in ranked:
        question = questions[number]
        base = found.get((number, order[0].pk))
        cells = []
        for variant in order:
            result = found.get((number, variant.pk))
            pair = pairs.get((number, variant.pk))
            cells.append(
                {
                    "label": variant.label,
                    "result": result,
                    "diff": diff_html(base.answer, result.answer) if result and base and result is not base else "",
                    "pair": pair,
                    "outcome": pair.outcome if pair else "",
                    "position_bias": pair is not None and not pair.consistent,
                }
            )
        rows.append({"question": question, "change": change, "cells": cells})
    return rows
