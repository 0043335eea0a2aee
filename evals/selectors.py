"""Reading verdicts: how far a judge agrees with gold answers and with people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from evals.calibration import Calibration, calibrate
from evals.models import EvalResult, EvalRun
from rewards.models import Reward

NEWEST = 5000  # verdicts that a calibration looks at


@dataclass(frozen=True, kw_only=True)
class JudgeCalibration:
    """A judge, by model and prompt, against token F1 with gold answers and against people's ratings."""

    model: str
    revision: str
    gold: Calibration
    people: Calibration

    @property
    def calibrated(self) -> bool:
        return self.gold.calibrated or self.people.calibrated

    @property
    def rows(self) -> list[tuple[str, Calibration]]:
        return [("gold answers (token F1)", self.gold), ("people's ratings", self.people)]

    def words(self) -> str:
        if self.calibrated:
            against = [name for name, one in (("gold answers", self.gold), ("people", self.people)) if one.calibrated]
            return f"The judge {self.model} is calibrated against {' and '.join(against)}."
        return (
            f"The judge {self.model} is not calibrated: its scores rank agents only as far as it happens to be right. "
            f"Against gold answers: {self.gold.words()} Against people: {self.people.words()}"
        )


def judge_calibration(run: EvalRun) -> JudgeCalibration:
    """The calibration of the run's judge, over all of its verdicts."""
    verdicts = EvalResult.objects.filter(judgement__isnull=False, run__judge_model=run.judge_model)
    newest = verdicts.order_by("-id").values_list("judgement__model", flat=True).first()
    return _calibration(newest or run.judge_model, run.judge_revision)


def judge_calibrations() -> list[JudgeCalibration]:
    """Every judge that has given a verdict, by model and prompt revision."""
    known = EvalResult.objects.filter(judgement__isnull=False).values_list("judgement__model", "judgement__revision")
    judges = {(model, revision) for model, revision in known.order_by().distinct()}
    rated = Reward.objects.filter(source=Reward.Source.JUDGE, rater__contains="@").values_list("rater", flat=True)
    judges |= {tuple(rater.rpartition("@")[::2]) for rater in rated.order_by().distinct()}
    return [_calibration(model, revision) for model, revision in sorted(judges)]


def rater_name(model: str, revision: str) -> str:
    """How a judge signs its ratings of interactions."""
    return f"{model[:130]}@{revision}"


def _calibration(model: str, revision: str) -> JudgeCalibration:
    verdicts = EvalResult.objects.filter(
        judgement__model=model, judgement__revision=revision, metrics__token_f1__isnull=False
    ).order_by("-id")
    gold = [(judged["score"], metrics["token_f1"]) for judged, metrics in verdicts.values_list("judgement", "metrics")[:NEWEST]]
    return JudgeCalibration(
        model=model, revision=revision, gold=_paired(gold), people=_paired(_against_people(rater_name(model, revision)))
    )


def _against_people(rater: str) -> Iterable[tuple[float, float]]:
    judged = dict(
        Reward.objects.filter(source=Reward.Source.JUDGE, rater=rater)
        .order_by("-created_at")
        .values_list("interaction_id", "value")[:NEWEST]
    )
    people: dict[object, list[float]] = defaultdict(list)
    rows = Reward.objects.filter(source=Reward.Source.USER, interaction__rewards__rater=rater)
    for interaction, value in rows.values_list("interaction_id", "value"):
        people[interaction].append(value)
    return [(judged[key], sum(values) / len(values)) for key, values in people.items() if key in judged]


def _paired(pairs: Iterable[tuple[float, float]]) -> Calibration:
    pairs = list(pairs)
    return calibrate([left for left, _ in pairs], [right for _, right in pairs])
