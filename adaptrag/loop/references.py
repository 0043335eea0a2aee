"""What a candidate is compared by: gold answers of an eval set, else people's corrections that no training may see.

A logged question belongs for good to part A (trains), B (gates) or C (reports) by the hash of its words. Corrected questions of
B and C become eval sets, whose questions no dataset takes (training.services.questions_reserve).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Q

from adaptrag.simulation import part_of
from agents.models import Collection
from evals.models import EvalRun, EvalSet
from evals.services import evalset_from_interactions, evalset_get
from rewards.models import Interaction, Reward
from training.models import SFTExample
from training.sft import grouped, normalised

GATE, REPORT, JUDGED = "corrections-gate", "corrections-report", "questions-gate"
CORRECTED = Q(rewards__source=Reward.Source.USER) & ~Q(rewards__correction="")


@dataclass(frozen=True, kw_only=True)
class References:
    """kind: gold, corrections or judge. n: questions that can be scored. interactions and report: ids, of parts B and C."""

    kind: str
    n: int
    eval_set: EvalSet | None = None
    collection: Collection | None = None
    interactions: tuple[Any, ...] = ()
    report: tuple[Any, ...] = ()

    @property
    def judge(self) -> str:
        return EvalRun.Judge.LLM if self.kind == "judge" else EvalRun.Judge.REFERENCE

    def words(self) -> str:
        match self.kind:
            case "gold":
                return f"{self.n} questions with gold answers of {self.eval_set}"
            case "corrections":
                return f"{self.n} questions with people's corrections, held out of training"
        return f"{self.n} logged questions held out of training, scored by the judge {settings.ADAPTRAG_JUDGE_MODEL}"


def references_find(eval_set: str, *, needed: int) -> References:
    """Those that a run would use now. Nothing is written. Raises UnknownEvalSet."""
    if eval_set:
        found = evalset_get(eval_set)
        return References(kind="gold", n=found.questions.exclude(answers=[]).count(), eval_set=found)
    corrected = _held_out(CORRECTED)
    if len(corrected.interactions) < needed and settings.ADAPTRAG_JUDGE_BACKEND:
        return _held_out(Q(state=Interaction.State.ANSWERED), kind="judge")
    return corrected


def references_keep(found: References, user: Any = None) -> EvalSet | None:
    """The eval set to ask, None without a question; held-out ones become a set first, and so leave what can be trained on."""
    if found.kind == "gold":
        return found.eval_set
    if found.kind == "judge":
        name, kept = JUDGED, {JUDGED: found.interactions[: settings.ADAPTRAG_IMPROVE_QUESTIONS]}
    else:
        name, kept = GATE, {REPORT: found.report, GATE: found.interactions}
    for own, keys in kept.items():
        if keys:
            rows = Interaction.objects.filter(pk__in=keys).prefetch_related("rewards").order_by("pk")
            evalset_from_interactions(own, rows, origin="held out of training by improve", user=user)
    return EvalSet.objects.filter(name=name).order_by("-version").first()


def _held_out(wanted: Q, kind: str = "corrections") -> References:
    """Questions of parts B and C, each once, of the collection that most were asked of, that no dataset ever held."""
    rows = Interaction.objects.filter(wanted).exclude(collection=None).order_by("pk").distinct()
    found: dict[str, tuple[Any, int, str]] = {}
    for key, question, collection in rows.values_list("pk", "question", "collection_id"):
        words = normalised(question)
        if words not in found and (part := part_of(words)) != "A":
            found[words] = key, collection, part
    known = SFTExample.objects.exclude(split=SFTExample.Split.LEFT_OUT).values_list("question", flat=True).distinct()
    groups = grouped([*found, *known])
    taught = set(groups[len(found) :])
    fresh = [one for one, group in zip(found.values(), groups, strict=False) if group not in taught]
    if not fresh:
        return References(kind=kind, n=0)
    ((most, _),) = Counter(collection for _, collection, _ in fresh).most_common(1)
    gate, report = ([key for key, own, part in fresh if own == most and part == place] for place in "BC")
    return References(
        kind=kind,
        n=len(gate),
        collection=Collection.objects.get(pk=most),
        interactions=tuple(gate),
        report=tuple(report),
    )
