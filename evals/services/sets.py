"""Eval sets: from files, from the built-in questions, from logged interactions; each change is a new version."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from evals.errors import BadEvalSet, UnknownEvalSet
from evals.models import EvalQuestion, EvalSet
from evals.sets import Item, digest, read_beir, read_jsonl
from rewards.models import Interaction

BUILT_IN = Path(__file__).resolve().parent.parent / "data" / "docs_questions.jsonl"
BATCH = 1000


def default_file() -> Path:
    """Where the predecessor kept its questions, under the data folder."""
    return settings.DATA_DIR / "data" / "eval" / "queries.jsonl"


@transaction.atomic
def evalset_create(
    *, name: str, items: Sequence[Item], source: str, origin: str = "", description: str = "", user: Any = None
) -> EvalSet:
    """A new version of the set, or the newest one where it holds the same items already. Raises BadEvalSet."""
    if not items:
        raise BadEvalSet(f"The eval set {name!r} would hold no question.")
    sha256 = digest(items)
    newest = EvalSet.objects.select_for_update().filter(name=name).order_by("-version").first()
    if newest and newest.sha256 == sha256:
        return newest
    eval_set = EvalSet(
        name=name,
        version=newest.version + 1 if newest else 1,
        source=source,
        origin=origin[:500],
        description=description,
        sha256=sha256,
        questions_count=len(items),
        created_by=user,
    )
    eval_set.full_clean(exclude=["created_by"])
    eval_set.save()
    EvalQuestion.objects.bulk_create(
        [
            EvalQuestion(
                eval_set=eval_set,
                key=item.key,
                ordinal=ordinal,
                question=item.question,
                answers=list(item.answers),
                gold=item.gold,
                category=item.category,
                unanswerable=item.unanswerable,
                metadata=item.metadata,
            )
            for ordinal, item in enumerate(items)
        ],
        batch_size=BATCH,
    )
    return eval_set


def evalset_from_path(path: Path, *, name: str = "", origin: str = "", user: Any = None) -> EvalSet:
    """A set from a BEIR folder or a JSON-lines file; its name is the file's where none is given, its origin the path.

    Raises BadEvalSet."""
    if path.is_dir():
        items, source = read_beir(path), EvalSet.Source.BEIR
    elif path.is_file():
        items, source = read_jsonl(path), EvalSet.Source.JSONL
    else:
        raise BadEvalSet(f"There is no eval set and no file or folder named {str(path)!r}.")
    named = name or re.sub(r"[^a-z0-9_-]+", "-", path.name.lower().removesuffix(".gz").removesuffix(".jsonl")).strip("-_")
    return evalset_create(name=named[:64] or "set", items=items, source=source, origin=origin or str(path), user=user)


def evalset_upload(*, filename: str, chunks: Iterable[bytes], name: str = "", user: Any = None) -> EvalSet:
    """A set from an uploaded JSON-lines file (or .gz); its origin is the upload's name. Raises BadEvalSet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(filename).name
        with file.open("wb") as handle:
            handle.writelines(chunks)
        return evalset_from_path(file, name=name, origin=filename, user=user)


def evalset_default(user: Any = None) -> EvalSet:
    """data/eval/queries.jsonl under the data folder where it is present, else the built-in questions over the docs."""
    if default_file().is_file():
        items = read_jsonl(default_file())
        return evalset_create(
            name="queries", items=items, source=EvalSet.Source.DATA_FOLDER, origin=str(default_file()), user=user
        )
    items = read_jsonl(BUILT_IN)
    return evalset_create(name="docs", items=items, source=EvalSet.Source.DOCS, origin="built in", user=user)


def evalset_get(name: str, version: int | None = None) -> EvalSet:
    """A set by name, its newest version by default. Raises UnknownEvalSet."""
    sets = EvalSet.objects.filter(name=name, **({} if version is None else {"version": version}))
    if (found := sets.order_by("-version").first()) is None:
        known = ", ".join(EvalSet.objects.order_by("name").values_list("name", flat=True).distinct()) or "none yet"
        raise UnknownEvalSet(f"There is no eval set {name!r}{'' if version is None else f' v{version}'}. There are: {known}.")
    return found


def evalset_items(eval_set: EvalSet) -> Iterable[Item]:
    for row in eval_set.questions.order_by("ordinal").iterator(BATCH):
        yield Item(
            key=row.key,
            question=row.question,
            answers=tuple(row.answers),
            gold=row.gold,
            category=row.category,
            unanswerable=row.unanswerable,
            metadata=row.metadata,
        )


def evalset_export(eval_set: EvalSet) -> Iterable[str]:
    """The set as JSON lines; importing them gives an equal set."""
    return (item.as_line() for item in evalset_items(eval_set))


def evalset_from_interactions(
    name: str, interactions: Iterable[Interaction], *, origin: str = "logged interactions", user: Any = None
) -> EvalSet:
    """The set's next version with logged questions added, made where it isn't there; people's corrections become gold answers.

    A question that the set holds already (same interaction or same words) is not added again. Raises BadEvalSet.
    """
    newest = EvalSet.objects.filter(name=name).order_by("-version").first()
    items = {item.key: item for item in evalset_items(newest)} if newest else {}
    asked = {item.question.casefold() for item in items.values()}
    for interaction in interactions:
        if str(interaction.pk) in items or interaction.question.casefold() in asked:
            continue
        asked.add(interaction.question.casefold())
        corrections = [reward.correction for reward in interaction.rewards.all() if reward.correction]
        items[str(interaction.pk)] = Item(
            key=str(interaction.pk),
            question=interaction.question,
            answers=tuple(dict.fromkeys(corrections)),
            category=interaction.category,
            metadata={"interaction": str(interaction.pk)},
        )
    return evalset_create(name=name, items=list(items.values()), source=EvalSet.Source.INTERACTIONS, origin=origin, user=user)
