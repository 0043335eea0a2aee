"""Data for Chart.js, which django-unfold bundles; colours are the CSS variables of static/console/admin.css."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adaptrag.console.figures import Estimate
from rewards.selectors import ChangeMarker

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


@dataclass(frozen=True, kw_only=True)
class Marker:
    """Changes that fell into the bucket `index` of a chart, under the number that stands on it."""

    index: int
    number: str
    changes: list[ChangeMarker]

    def as_dict(self) -> dict[str, Any]:
        return {"index": self.index, "number": self.number}


def markers(changes: Sequence[ChangeMarker], starts: Sequence[datetime]) -> list[Marker]:
    """The changes by the bucket that they fell into, numbered from 1 in the order of time."""
    by_bucket: dict[int, list[ChangeMarker]] = {}
    for change in changes:
        index = bisect_right(starts, change.at) - 1
        if index >= 0:
            by_bucket.setdefault(index, []).append(change)
    return [
        Marker(index=index, number=str(number), changes=by_bucket[index])
        for number, index in enumerate(sorted(by_bucket), start=1)
    ]
