"""Data for Chart.js, which django-unfold bundles; colours are the CSS variables of static/console/admin.css."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adaptrag.console.figures import Estimate

PALETTE = 8  # --ar-hue-1 to --ar-hue-8


def hue(index: int) -> str:
    return f"var(--ar-hue-{index % PALETTE + 1})"


def stacked_bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {
        "labels": list(labels),
        "datasets": [
            {"label": name, "data": list(values), "backgroundColor": hue(index), "stack": "all"}
            for index, (name, values) in enumerate(series.items())
        ],
    }


def band_chart(labels: Sequence[str], estimates: Sequence[Estimate]) -> dict[str, Any]:
    """A line of means inside the band of their intervals; gaps where there is nothing."""
    edge = {"borderWidth": 0, "pointRadius": 0, "spanGaps": False}
    return {
        "labels": list(labels),
        "datasets": [
            {"label": "95 % from", "data": [one.low for one in estimates], **edge},
            {"label": "to", "data": [one.high for one in estimates], "fill": "-1", "backgroundColor": "var(--ar-band)", **edge},
            {
                "label": "mean reward",
                "data": [one.value for one in estimates],
                "borderColor": "var(--ar-hue-1)",
                "backgroundColor": "var(--ar-hue-1)",
                "borderWidth": 2,
                "pointRadius": 3,
                "counts": [one.n for one in estimates],
            },
        ],
    }
