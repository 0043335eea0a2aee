"""Reading verdicts: how far a judge agrees with gold answers and with people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import QuerySet

from evals.calibration import Calibration, calibrate
from evals.models import EvalResult, EvalRun
from rewards.models import Reward

NEWEST = 5000  # verdicts that a calibration looks at


@dataclass(frozen=True, kw_only=True)
class JudgeCalibration:
    """A judge, by model, prompt and whether it saw gold answers, against token F1 with gold answers and people's ratings.

    Seeing the references, it can only be shown to apply them as F1 does: that says nothing of questions that have none, for
    which the blind kind answers.
    """

    model: str
    revision: str
    references: bool
    gold: Calibration
    people: Calibration

    @property
    def calibrated(self) -> bool:
        return self.gold.calibrated or self.people.calibrated

    @property
    def kind(self) -> str:
        return "shown gold answers" if self.references else "shown no gold answers"

    @property
    def rows(self) -> list[tuple[str, Calibration]]:
        against = [("gold answers (token F1)", self.gold)]
        return against if self.references else [*against, ("people's ratings", self.people)]

    def words(self) -> str:
        judge = f"The judge {self.model}, {self.kind},"
        if self.calibrated:
            against = [name for name, one in (("gold answers", self.gold), ("people", self.people)) if one.calibrated]
            return f"{judge} is calibrated against {' and '.join(against)}."
        people = "" if self.references else f" Against people: {self.people.words()}"
        return (
            f"{judge} is not calibrated: its scores rank agents only as far as it happens to be right. "
            f"Against gold answers: {self.gold.words()}{people}"
        )


@dataclass(frozen=True, kw_only=True)
class RunCalibration:
    """The calibrations of every kind of verdict in a run; it is calibrated where all of them are."""

    kinds: tuple[JudgeCalibration, ...]

    @property
    def calibrated(self) -> bool:
        return all(one.calibrated for one in self.kinds)

    def words(self) -> str:
        return " ".join(one.words() for one in self.kinds if self.calibrated or not one.calibrated)


Known = dict[tuple[str, str, bool], JudgeCalibration]


def judge_calibration(run: EvalRun, known: Known | None = None) -> RunCalibration:
    """How far the run's judge can be believed, over all of its verdicts. `known` keeps what several runs share."""
    known = {} if known is None else known
    kinds = _kinds(run.results.all()) or _kinds_to_come(run)
    for kind in kinds - known.keys():
        known[kind] = _calibration(*kind)
    return RunCalibration(kinds=tuple(known[kind] for kind in sorted(kinds)))


def _kinds(rows: QuerySet[EvalResult]) -> set[tuple[str, str, bool]]:
    found = rows.filter(judgement__isnull=False).order_by()
    columns = ("judgement__model", "judgement__revision", "judgement__references")
    return {(model, revision, bool(references)) for model, revision, references in found.values_list(*columns).distinct()}


def _kinds_to_come(run: EvalRun) -> set[tuple[str, str, bool]]:
    """Before the first verdict: the model as it called itself last, and what the questions hold."""
    verdicts = EvalResult.objects.filter(judgement__isnull=False, run__judge_model=run.judge_model)
    newest = verdicts.order_by("-id").values_list("judgement__model", flat=True).first() or run.judge_model
    questions = run.eval_set.questions.order_by("ordinal")[: run.max_questions]
    shown = {bool(answers) and not run.judge_blind for answers in questions.values_list("answers", flat=True)}
    return {(newest, run.judge_revision, references) for references in shown}


def judge_calibrations() -> list[JudgeCalibration]:
    """Every judge that has given a verdict, by model, prompt revision and whether it saw gold answers."""
    judges = _kinds(EvalResult.objects.all())
    rated = Reward.objects.filter(source=Reward.Source.JUDGE, rater__contains="@").values_list("rater", flat=True)
    judges |= {(*rater.rpartition("@")[::2], False) for rater in rated.order_by().distinct()}
    return [_calibration(*kind) for kind in sorted(judges)]


def rater_name(model: str, revision: str) -> str:
    """How a judge signs its ratings of interactions."""
    return f"{model[:130]}@{revision}"


def rater_notes(raters: Iterable[str]) -> dict[str, str]:
    """What the pages say beside a judge's ratings, by rater: "not calibrated" where so."""
    return {
        rater: "" if _calibration(*rater.rpartition("@")[::2], references=False).calibrated else "not calibrated"
        for rater in set(raters)
    }


def _calibration(model: str, revision: str, references: bool) -> JudgeCalibration:
    """One answer to one question is one pair, however often it was judged: the newest verdict counts."""
    verdicts = EvalResult.objects.filter(
        judgement__model=model,
        judgement__revision=revision,
        judgement__references=references,
        metrics__token_f1__isnull=False,
    ).order_by("-id")
    gold: dict[tuple[str, str], tuple[float, float]] = {}
    columns = ("question__question", "answer", "judgement", "metrics")
    for question, answer, judged, metrics in verdicts.values_list(*columns)[:NEWEST]:
        gold.setdefault((question, answer.strip()), (judged["score"], metrics["token_f1"]))
    people = [] if references else _against_people(rater_name(model, revision))
    return JudgeCalibration(
        model=model, revision=revision, references=references, gold=_paired(gold.values()), people=_paired(people)
    )


def _against_people(rater: str) -> Iterable[tuple[float, float]]:
    """(judge's, mean of people's) for each answer to each question."""
    judged = Reward.objects.filter(source=Reward.Source.JUDGE, rater=rater).order_by("-created_at")
    verdicts: dict[tuple[str, str], float] = {}
    content: dict[object, tuple[str, str]] = {}
    columns = ("interaction_id", "interaction__question", "interaction__answer", "value")
    for interaction, question, answer, value in judged.values_list(*columns)[:NEWEST]:
        content[interaction] = (question, answer.strip())
        verdicts.setdefault(content[interaction], value)
    people: dict[tuple[str, str], list[float]] = defaultdict(list)
    rows = Reward.objects.filter(source=Reward.Source.USER, interaction__rewards__rater=rater)
    for interaction, value in rows.values_list("interaction_id", "value"):
        if interaction in content:
            people[content[interaction]].append(value)
    return [(verdicts[key], sum(values) / len(values)) for key, values in people.items()]


def _paired(pairs: Iterable[tuple[float, float]]) -> Calibration:
    pairs = list(pairs)
    return calibrate([left for left, _ in pairs], [right for _, right in pairs])
