"""The trace of an interaction, ready for its page: every step on one time line, and all that was noted of it."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from rewards.models import Interaction

PLAIN = ("step", "at_ms", "ms", "purpose", "error")
# What the bar of a step is coloured by.
KINDS = {"chat": "model", "retrieve": "search", "external": "search"}


def trace_of(interaction: Interaction) -> dict[str, Any]:
    """steps as the template shows them, and totals of model calls and searches."""
    steps = [_step(step, interaction) for step in interaction.trace]
    return {"steps": steps, "totals": _totals(interaction.trace)}


def _totals(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    totals = []
    for kind, word in (("model", "model call"), ("search", "search")):
        steps = [step for step in trace if KINDS.get(step.get("step", "")) == kind]
        if steps:
            sums = {name: sum(step.get(name, 0) for step in steps) for name in ("ms", "prompt_tokens", "completion_tokens")}
            totals.append({"kind": kind, "word": word, "count": len(steps), **sums})
    return totals


def _step(step: dict[str, Any], interaction: Interaction) -> dict[str, Any]:
    """A step with its place on the time line in percent, a summary, and its details."""
    total = max(interaction.latency_ms, step.get("at_ms", 0) + step.get("ms", 0), 1e-6)
    name = step.get("step", "")
    return {
        "step": name,
        "kind": KINDS.get(name, "other"),
        "purpose": step.get("purpose", ""),
        "at_ms": step.get("at_ms", 0),
        "ms": step.get("ms", 0),
        "left": f"{100 * step.get('at_ms', 0) / total:.2f}",
        "width": f"{max(100 * step.get('ms', 0) / total, 0.4):.2f}",
        "summary": _summary(step),
        "error": step.get("error", ""),
        "details": [
            _detail(key, value, interaction) for key, value in step.items() if key not in PLAIN and value not in ("", None)
        ],
    }


def _summary(step: dict[str, Any]) -> str:
    """One line on what came of a step."""
    match step:
        case {"step": "chat", "text": str(text)}:
            tokens = f"{step.get('prompt_tokens', 0)} tokens in, {step.get('completion_tokens', 0)} out"
            return f"{tokens}: {text}"
        case {"step": "retrieve" | "external", "found": list(found)}:
            unit = f"{step['unit']}s, grown" if step.get("unit") else "passages"
            what = "results" if step["step"] == "external" else f"{unit}, {step.get('method', '')}"
            return f"{len(found)} {what}: {step.get('query', '')}"
        case {"step": "grade", "grades": list(grades)}:
            words = [one.get("grade", "") for one in grades]
            return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        case {"skipped": str(reason)}:
            return reason
        case {"step": "rewrite", "rewritten": str(rewritten)}:
            return rewritten
        case {"verdict": str(verdict)}:
            return verdict
        case {"step": "critic"}:
            return f"searches for: {step['query']}" if step.get("query") else "nothing is missing"
    return ""


def _detail(name: str, value: Any, interaction: Interaction) -> dict[str, Any]:
    """A noted value as text, or as a table where it is a list of objects."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        columns = list(dict.fromkeys(key for row in value for key in row))
        rows = [[_cell(key, row.get(key), interaction) for key in columns] for row in value]
        return {"name": name, "columns": columns, "rows": rows}
    return {"name": name, "text": _text(value)}


def _cell(name: str, value: Any, interaction: Interaction) -> dict[str, str]:
    url = ""
    if name == "chunk" and isinstance(value, int) and value > 0:
        url = reverse("source", args=[value]) + f"?interaction={interaction.pk}#passage"
    elif name == "url" and isinstance(value, str) and value.startswith(("https://", "http://")):
        url = value
    return {"text": _text(value), "url": url}


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "\n".join(map(_text, value)) or "none"
    return str(value)
