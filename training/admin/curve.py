"""The loss curve of a training as a drawing: places in percent of the picture, so that its words keep their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

GAPS = 4  # between marks of an axis, at most
MOST = 80  # points that are drawn and listed one by one


def loss_curve(curve: Sequence[dict[str, Any]], steps: int, best: int | None = None) -> dict[str, Any]:
    """Lines and points of a run of `steps` by its curve's {step, train_loss | validation_loss}, and the marks of both axes.

    x and y in percent from the upper left corner; y reaches from loss 0 to a round number above the highest. `best`: the step
    whose weights were kept. Empty for fewer than two points.
    """
    found = [
        (name, point["step"], point[f"{name}_loss"])
        for point in curve
        for name in ("train", "validation")
        if point.get(f"{name}_loss") is not None
    ]
    if len(found) < 2:
        return {}
    last = max(steps, *(step for _, step, _ in found))
    down, across = _marks(max(loss for *_, loss in found)), _marks(last, whole=True)
    top = down[-1]
    points = [
        {
            "name": name, "x": round(100 * step / last, 2), "y": round(100 * (1 - loss / top), 2),
            "title": f"step {step}: {'training' if name == 'train' else 'validation'} loss {loss:.3f}",
        }
        for name, step, loss in found
    ]  # fmt: skip
    lines = {
        name: " ".join(f"{one['x']},{one['y']}" for one in points if one["name"] == name) for name in ("train", "validation")
    }
    return {
        "lines": lines,
        "points": [one for one in points if one["name"] == "validation"] if len(points) > MOST else points,
        "down": [{"y": round(100 * (1 - value / top), 2), "text": f"{value:g}"} for value in down],
        "across": [{"x": round(100 * value / last, 2), "text": f"{value:,.0f}"} for value in across if value <= last],
        "rows": _rows(found),
        "best": {"step": best, "x": round(100 * best / last, 2)} if best and lines["validation"] else None,
        "lowest": min((loss for name, _, loss in found if name == "validation"), default=None),
    }


def _rows(found: list[tuple[str, int, float]]) -> list[dict[str, Any]]:
    """The losses of each step as a table: of long runs, the steps that were validated and the last."""
    rows: dict[int, dict[str, Any]] = {}
    for name, step, loss in found:
        rows.setdefault(step, {"step": step})[name] = loss
    last = max(rows)
    return [row for row in rows.values() if len(rows) <= MOST or "validation" in row or row["step"] == last]


def _marks(highest: float, *, whole: bool = False) -> list[float]:
    """0 and round numbers at even distance, the last of them not below `highest`."""
    highest = max(highest, 1 if whole else 1e-9)
    rough = max(highest / GAPS, 1 if whole else 0)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    gap = next(power * factor for factor in factors if power * factor >= rough * (1 - 1e-9))
    return [round(gap * number, 12) for number in range(math.ceil(highest / gap - 1e-9) + 1)]
