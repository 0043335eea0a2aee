"""Datasets: prepared from the log, frozen, looked through, dropped from."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction

from adaptrag.common.errors import InvalidInput
from adaptrag.common.jobs import JobContext, job_enqueue
from adaptrag.common.models import Job
from agents.llm.base import Message
from agents.llm.weights import DEFAULT_MODEL, model_folder
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest
from agents.strategies.lora_rag import LoraRAG
from agents.strategies.prompt import abstains, answer_messages
from rewards.models import Interaction, Reward
from training.builtin import builtin_candidates
from training.encoding import Encoder
from training.errors import NothingToLearn, UnknownDataset
from training.models import SFTDataset, SFTExample, TeacherAnswer
from training.sft import SOURCES, Candidate, Chat, Example, Filters, counts, select
from training.tasks import DATASET

DEFAULT_FILE = "training/data/sft_train.jsonl"  # a copy of the newest dataset's
MOST = 50_000  # newest interactions that are looked at

_reserved: list[Callable[[], Iterable[str]]] = []


def questions_reserve(provider: Callable[[], Iterable[str]]) -> None:
    """Name questions that no dataset may hold. The project does so for the eval sets, of which this app knows nothing."""
    _reserved.append(provider)


def reserved_questions() -> set[str]:
    return {question for provider in _reserved for question in provider()}


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """What to prepare. `student` counts the tokens; `out` gets a copy of the training file, its neighbour ..._validation.jsonl
    of the rest."""

    min_reward: float = 0.8
    source: str = "all"
    student: str = DEFAULT_MODEL
    max_tokens: int | None = None
    scrub: bool | None = None
    out: Path | None = None
    user: Any = None


def dataset_for(number: int | None, *, prepare: bool = False, user: Any = None) -> SFTDataset:
    """That dataset; without a number the newest, with `prepare` made first where there is none. Raises UnknownDataset.

    Making one loads a tokenizer, so the web process only looks for one.
    """
    if number is None:
        if (newest := SFTDataset.objects.first()) is not None:
            return newest
        if prepare:
            return dataset_prepare(DatasetRequest(user=user))
        raise UnknownDataset("There is no dataset yet. Prepare one first, in the admin under Datasets or by the API.")
    found = SFTDataset.objects.filter(pk=number).first()
    if found is None:
        newest = SFTDataset.objects.values_list("pk", flat=True).first()
        known = f"The newest is {newest}." if newest else "There is none yet: python manage.py prepare_sft_data"
        raise UnknownDataset(f"There is no dataset {number}. {known}", dataset=number)
    return found


def dataset_prepare(request: DatasetRequest) -> SFTDataset:
    """A frozen dataset from the log, or from the built-in questions where nothing was ever rated.

    Raises InvalidInput, and NothingToLearn (with the reasons) where every question is left out.
    """
    _check(request)
    encoder = Encoder(model_folder(request.student))
    window = min(encoder.window, request.max_tokens or settings.ADAPTRAG_SFT_MAX_TOKENS)
    candidates = _logged()
    builtin = not any(one.reward is not None or one.corrections or one.teacher for one in candidates)
    if builtin:
        candidates = builtin_candidates()
    filters = Filters(
        min_reward=request.min_reward,
        source="all" if builtin else request.source,
        scrub=settings.ADAPTRAG_SFT_SCRUB if request.scrub is None else request.scrub,
        window=window,
    )
    reserved = reserved_questions()
    examples = select(candidates, filters, lambda chat: len(encoder.encode(chat)), reserved)
    origin = SFTExample.Origin.BUILTIN if builtin else None
    rows = [_row(one, origin=origin, keyed=not builtin) for one in examples]
    figures = counts(rows)
    if not figures["train"]:
        reasons = "; ".join(f"{number} x {reason}" for reason, number in figures["left_out"].items())
        raise NothingToLearn(f"No question is left to train on, of {len(examples)}: {reasons or 'nothing was asked yet'}")
    source = SFTDataset.Source.BUILTIN if builtin else request.source
    values = asdict(filters) | {"student": request.student, "eval_questions": len(reserved)}
    return _frozen(rows, source=source, filters=values, figures=figures, out=request.out, user=request.user)


def dataset_enqueue(request: DatasetRequest, *, train: dict[str, Any] | None = None) -> Job:
    """Prepare it on the queue; the job's result has its number. Raises InvalidInput.

    train: fields of a TrainingRequest that is started on it then, with the recipe's as a dict.
    """
    _check(request)
    names = ("min_reward", "source", "student", "max_tokens", "scrub")
    payload = {name: getattr(request, name) for name in names}
    return job_enqueue(
        DATASET,
        payload
        | {"out": request.out and str(request.out.resolve()), "user": getattr(request.user, "pk", None), "train": train},
        title="Prepare a dataset from the log" + (" and train on it" if train else ""),
        user=request.user,
    )


def dataset_execute(context: JobContext) -> dict[str, Any]:
    """Called by the job."""
    values = dict(context.payload)
    user = get_user_model().objects.filter(pk=values.pop("user")).first()
    out, train = values.pop("out"), values.pop("train")
    context.progress(0.0, "reading the log")
    dataset = dataset_prepare(DatasetRequest(user=user, out=out and Path(out), **values))
    result = {"dataset": dataset.pk, "counts": dataset.counts}
    if train is not None:
        from training.services.trainings import training_request, training_start  # which imports this module

        result["training"] = training_start(training_request(train, dataset=dataset.pk, user=user)).pk
    return result


def _check(request: DatasetRequest) -> None:
    if request.source not in SOURCES:
        raise InvalidInput(f"Unknown source {request.source!r}; there are {', '.join(SOURCES)}.", field="source")
    if not 0 <= request.min_reward <= 1:
        raise InvalidInput(f"min_reward must lie between 0 and 1, not {request.min_reward!r}.", field="min_reward")


def dataset_drop(dataset: SFTDataset, examples: Sequence[int], *, user: Any = None) -> SFTDataset:
    """Another dataset without these examples; the first stays as it is, and so do the runs that used it."""
    rows = list(dataset.examples.all())
    dropped = {row.pk for row in rows if row.pk in set(examples) and row.split != SFTExample.Split.LEFT_OUT}
    if not dropped:
        raise InvalidInput("None of the chosen examples is in the dataset.", field="examples")
    if not any(row.split == SFTExample.Split.TRAIN and row.pk not in dropped for row in rows):
        raise NothingToLearn("That would leave nothing to train on.")
    by = f" by {user}" if user else ""
    for row in rows:
        if row.pk in dropped:
            row.split, row.reason = SFTExample.Split.LEFT_OUT, f"Dropped{by}."
        row.pk = None
    return _frozen(rows, source=dataset.source, filters=dataset.filters, figures=counts(rows), parent=dataset, user=user)


def dataset_export(dataset: SFTDataset, out: Path) -> None:
    """Write its examples as JSON lines {"messages"}: training ones to `out`, validation ones beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(dataset.examples.exclude(split=SFTExample.Split.LEFT_OUT))
    stem = out.stem.removesuffix("_train")
    for split, path in (("train", out), ("validation", out.with_name(f"{stem}_validation{out.suffix}"))):
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text("".join(f"{_line(row.messages)}\n" for row in rows if row.split == split))
        aside.replace(path)


def chats(dataset: SFTDataset, split: str) -> list[Chat]:
    """The chats of a split, in the dataset's order."""
    return list(dataset.examples.filter(split=split).values_list("messages", flat=True))


def _frozen(
    rows: list[SFTExample],
    *,
    source: str,
    filters: dict[str, Any],
    figures: dict[str, Any],
    parent: SFTDataset | None = None,
    out: Path | None = None,
    user: Any = None,
) -> SFTDataset:
    digest = hashlib.sha256()
    for row in rows:
        if row.split != SFTExample.Split.LEFT_OUT:
            digest.update(f"{row.split} {_line(row.messages)}\n".encode())
    with transaction.atomic():
        dataset = SFTDataset.objects.create(
            source=source, parent=parent, sha256=digest.hexdigest(), filters=filters, counts=figures, created_by=user
        )
        for row in rows:
            row.dataset = dataset
        SFTExample.objects.bulk_create(rows, batch_size=500)
        default = Path(DEFAULT_FILE)
        dataset.path = str(default.parent / f"dataset-{dataset.pk}" / default.name)
        dataset.save(update_fields=["path"])
        for copy in (dataset.file, Path(settings.DATA_DIR) / default, *([out] if out else [])):
            dataset_export(dataset, copy)
    return dataset


def _row(one: Example, *, origin: str | None, keyed: bool) -> SFTExample:
    return SFTExample(
        interaction_id=one.key if keyed else None,
        split=one.split,
        origin=(origin or one.origin) if one.origin else "",
        reason=one.reason[:300],
        note=one.note[:300],
        reward=one.reward,
        tokens=one.tokens,
        question=one.question,
        target=one.target,
        messages=list(one.messages),
    )


def _line(messages: Any) -> str:
    return json.dumps({"messages": messages}, ensure_ascii=False)


# The log ----------------------------------------------------------------------------------------------------------------


def _logged() -> list[Candidate]:
    """The newest interactions, oldest first."""
    rows = list(
        Interaction.objects.only("id", "state", "fallback", "question", "messages", "answer", "sources").order_by("-id")[:MOST]
    )
    rows.reverse()
    ratings: dict[Any, list[Reward]] = defaultdict(list)
    for reward in Reward.objects.filter(source=Reward.Source.USER).order_by("updated_at"):
        ratings[reward.interaction_id].append(reward)
    taught = dict(TeacherAnswer.objects.filter(accepted=True).order_by("pk").values_list("interaction_id", "text"))
    return [_candidate(row, ratings[row.pk], taught.get(row.pk, "")) for row in rows]


def _candidate(row: Interaction, ratings: list[Reward], taught: str) -> Candidate:
    values = [rating.value for rating in ratings]
    failed = "It failed." if row.state == Interaction.State.FAILED else ""
    if not failed and abstains(row.answer):
        failed = "Its answer says that it does not know."
    return Candidate(
        key=str(row.pk),
        question=row.question,
        passages=len(passages_of(row)),
        prompt=lambda number: prompt_of(row, number),
        answer=row.answer,
        reward=sum(values) / len(values) if values else None,
        ratings=len(values),
        corrections=tuple(rating.correction for rating in ratings if rating.correction.strip()),
        teacher=taught,
        failed=failed,
    )


def passages_of(row: Interaction) -> list[Passage]:
    """The passages that stood in the prompt, as the agent saw them; all that were found where the log does not say which."""
    used = [source for source in row.sources if source.get("used", True) and source.get("text")]
    known = Passage.__dataclass_fields__
    blank: dict[str, Any] = {"chunk_id": 0, "document_id": 0, "document": "", "score": 0.0, "rank": 0, "retriever": ""}
    return [Passage(**blank | {name: value for name, value in source.items() if name in known}) for source in used]


def prompt_of(row: Interaction, passages: int | None = None) -> Chat:
    """The chat that `lora_rag` would make of the interaction: trained on what it will be asked."""
    request = AgentRequest(
        question=row.question,
        collection=None,  # nothing is searched
        messages=tuple(Message(role=turn["role"], content=turn["content"]) for turn in row.messages),
    )
    parameters = LoraRAG.Parameters()
    return [message.as_dict() for message in answer_messages(request, passages_of(row)[:passages], parameters)]
