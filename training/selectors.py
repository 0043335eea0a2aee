"""Reading datasets, runs, builds and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.models import Interaction
from training.models import QuantizationReport, SFTExample, TrainingRun


def interactions_behind(run: TrainingRun) -> list[Interaction]:
    """The logged questions that a run was trained on; the built-in ones have none."""
    return list(
        Interaction.objects.filter(sft_examples__dataset=run.dataset_id, sft_examples__split=SFTExample.Split.TRAIN).distinct()
    )


def builds() -> list[QuantizationReport]:
    """The quantizations that gave a build, newest first."""
    done = QuantizationReport.objects.filter(artifact__isnull=False).select_related("artifact", "adapter", "variant")
    return [report for report in done if report.figures]


def quality_of(report: QuantizationReport) -> float:
    """0 to 1: token F1 against the unquantized model's on an eval set where there is one, else how alike the answers are."""
    found = report.quality.get("token_f1")
    return max(0.0, 1 + min(0.0, found["difference"])) if found else report.fidelity.get("answers_overlap", 0.0)


def pareto(reports: Sequence[QuantizationReport]) -> list[QuantizationReport]:
    """Those that no other beats in memory, speed and quality at once."""

    def worth(report: QuantizationReport) -> tuple[float, float, float]:
        return -report.figures["weights_bytes"], report.figures["decode_tokens_per_second"], quality_of(report)

    def beaten(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return other != one and all(right >= left for left, right in zip(one, other, strict=True))

    return [report for report in reports if not any(beaten(worth(report), worth(other)) for other in reports)]
