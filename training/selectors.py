"""Reading datasets, runs, builds and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q, QuerySet

from agents.models import ModelArtifact
from rewards.models import Interaction
from training.models import QuantizationReport, SFTDataset, SFTExample, TrainingRun


def interactions_behind(run: TrainingRun) -> QuerySet[Interaction]:
    """The logged questions that a run was trained on; the built-in ones have none."""
    examples = SFTExample.objects.filter(dataset=run.dataset_id, split=SFTExample.Split.TRAIN)
    return Interaction.objects.filter(pk__in=examples.values("interaction"))


def training_of(artifact: ModelArtifact) -> TrainingRun | None:
    """The run that made an adapter, or the adapter that a build was made of."""
    return TrainingRun.objects.select_related("dataset").filter(artifact__in=[artifact.pk, artifact.parent_id]).first()


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A dataset that has an interaction to train on, and the adapters and builds that were made of it."""

    dataset: SFTDataset
    artifacts: tuple[ModelArtifact, ...]


def learned_from(interaction: Interaction) -> list[Learned]:
    """What an interaction was trained on for, newest dataset first."""
    datasets = SFTDataset.objects.filter(examples__interaction=interaction, examples__split=SFTExample.Split.TRAIN)
    found = []
    for dataset in datasets.distinct().order_by("-pk"):
        made = Q(training__dataset=dataset) | Q(parent__training__dataset=dataset)
        found.append(Learned(dataset=dataset, artifacts=tuple(ModelArtifact.objects.filter(made).distinct())))
    return found


def builds() -> list[QuantizationReport]:
    """The quantizations that gave a build, newest first."""
    done = QuantizationReport.objects.filter(artifact__isnull=False).select_related("artifact", "adapter", "variant")
    return [report for report in done if report.figures]


def quality_of(report: QuantizationReport) -> float:
    """0 to 1: token F1 against the unquantized model's on an eval set where there is one, else how alike the answers are."""
    found = report.quality.get("token_f1")
    return max(0.0, 1 + min(0.0, found["difference"])) if found else report.fidelity.get("answers_overlap", 0.0)


def quality_words(report: QuantizationReport) -> list[str]:
    """What an evaluation found, else how like the unquantized model's the answers are; empty before either."""
    words = []
    for key, name in (("token_f1", "token F1"), ("judge_score", "judge score")):
        if (found := report.quality.get(key)) is not None:
            low, high = found["interval"]
            words.append(
                f"{name} {found['value']:.3f}, {found['difference']:+.3f} ({low:+.3f} to {high:+.3f}) against the unquantized "
                f"model, n {found['n']}"
            )
    if not words and report.fidelity:
        words.append(
            f"answers {report.fidelity['answers_overlap']:.2f} alike, perplexity {report.fidelity['perplexity_rise']:+.1%}"
        )
    return words


def pareto(reports: Sequence[QuantizationReport]) -> list[QuantizationReport]:
    """Those that no other beats in memory, speed and quality at once."""

    def worth(report: QuantizationReport) -> tuple[float, float, float]:
        return -report.figures["weights_bytes"], report.figures["decode_tokens_per_second"], quality_of(report)

    def beaten(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return other != one and all(right >= left for left, right in zip(one, other, strict=True))

    return [report for report in reports if not any(beaten(worth(report), worth(other)) for other in reports)]
