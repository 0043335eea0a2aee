"""A log into the database: in batches, each whole, and the arms with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any, Literal
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from adaptrag.common.errors import AdaptRAGError, InvalidInput
from agents.models import AgentVariant, Collection
from agents.strategies import STRATEGIES
from rewards.errors import InvalidLogLine
from rewards.models import Interaction, Pull, Reward
from rewards.selectors import active_policy
from rewards.services.arms import evidence_lock, pulls_settle, rebuild
from rewards.services.evidence import WeightsOutgrown, clock_read
from rewards.services.feedback import ratable_checked
from rewards.services.log_format import InteractionRecord, InvalidRecord, RewardRecord, parse_line
from rewards.services.rollup import asked, changes_note
from rewards.services.turn import write_turn

Progress = Callable[[float, str], Any]
BATCH = 1000  # lines a transaction: with larger ones the rate no longer rises, and other writers wait longer
ERRORS_KEPT = 100


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """Counts by what happened. `errors` has the first of the skipped lines as {line, message}."""

    lines: int
    interactions_created: int
    interactions_known: int
    rewards_created: int
    rewards_replaced: int
    rewards_unchanged: int
    agents_created: int
    collections_created: int
    skipped: int
    errors: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def log_import(
    lines: Iterable[str | bytes],
    *,
    on_error: Literal["skip", "stop"] = "skip",
    create_missing: bool = False,
    progress: Progress | None = None,
) -> ImportResult:
    """Import lines in the form of `rewards.services.log_format`. Known interactions stay as they are, ratings replace.

    on_error: "skip" reports a bad line and goes on, committing batch by batch; "stop" raises InvalidLogLine and leaves the
    database as it was (one transaction: on SQLite other writers wait for it). create_missing makes agents, retired, and
    collections that lines name; otherwise such a line is bad. Which ratings count for arms is up to this site's active policy,
    its last reset included. Where `lines` has a `fraction`, progress shows it.
    """
    if on_error not in ("skip", "stop"):
        raise InvalidInput(f"on_error is 'skip' or 'stop', not {on_error!r}.", field="on_error")
    with _transaction() if on_error == "stop" else nullcontext():
        return _Import(on_error == "stop", create_missing).run(lines, progress)


@contextmanager
def _transaction() -> Iterator[None]:
    # Exclusive, since a batch holds many interactions and arms at a time, in no order that feedback could follow.
    with write_turn(), transaction.atomic():
        evidence_lock(exclusive=True)
        yield


class _Import:
    def __init__(self, stop: bool, create_missing: bool) -> None:
        self.stop = stop
        self.names = _Names(create_missing)
        self.counts: Counter[str] = Counter()
        self.errors: list[dict[str, Any]] = []
        self.begun = timezone.now()

    def run(self, lines: Iterable[str | bytes], progress: Progress | None) -> ImportResult:
        numbered = enumerate(lines, start=1)
        while batch := list(islice(numbered, BATCH)):
            records = list(self._parsed(batch))
            with nullcontext() if self.stop else _transaction():
                self._save(records)
            self.counts["lines"] = batch[-1][0]
            if progress:
                progress(getattr(lines, "fraction", 0.0), f"{batch[-1][0]:,} lines")
        if progress:
            progress(1.0, f"{self.counts['lines']:,} lines")
        counts = {name: self.counts[name] for name in ImportResult.__dataclass_fields__ if name != "errors"}
        return ImportResult(**counts | self.names.created, errors=self.errors)

    def _parsed(self, batch: list[tuple[int, str | bytes]]) -> Iterator[tuple[int, InteractionRecord | RewardRecord]]:
        for number, line in batch:
            if not line.strip():
                continue
            try:
                # Lines without a date keep their order in the file.
                found = parse_line(line, self.begun + timedelta(microseconds=number))
            except AdaptRAGError as error:
                self._bad(number, error)
            else:
                yield from ((number, record) for record in found if record is not None)

    def _save(self, records: list[tuple[int, InteractionRecord | RewardRecord]]) -> None:
        ids = {record.row.pk if isinstance(record, InteractionRecord) else record.row.interaction_id for _, record in records}
        columns = ("state", "error", "mode", "category", "variant_id", "created_at", "latency_ms", "cost_usd", "clock")
        log = Interaction.objects.select_for_update(no_key=True).only(*columns).order_by("pk").in_bulk(list(ids))
        fresh, ratings = [], {}
        for number, record in records:
            try:
                if isinstance(record, RewardRecord):
                    ratable_checked(_found(record.row.interaction_id, log))
                    ratings[record.key] = record.row
                elif record.row.pk in log:
                    self.counts["interactions_known"] += 1
                else:
                    log[record.row.pk] = self.names.resolved(record)
                    fresh.append(record.row)
            except AdaptRAGError as error:
                self._bad(number, error)
        # As if each had been asked and rated in the order of the file.
        tick, rated = clock_read().ticks, {pk for pk, _, _ in ratings}
        for row in fresh:
            row.clock = tick
            tick += row.pk in rated
        Interaction.objects.bulk_create(fresh)
        changes_note(asked(fresh))
        self.counts["interactions_created"] += len(fresh)
        self._save_ratings(log, ratings)

    def _save_ratings(self, log: dict[UUID, Interaction], ratings: dict[tuple[UUID, str, str], Reward]) -> None:
        rated = {pk for pk, _, _ in ratings}
        present = {RewardRecord(row=row).key: row for row in Reward.objects.filter(interaction_id__in=rated)}
        replaced = []
        for key in ratings.keys() & present.keys():
            rating, row = ratings[key], present[key]
            wanted = (rating.value, rating.correction or row.correction, rating.comment or row.comment)
            if (row.value, row.correction, row.comment) == wanted:
                self.counts["rewards_unchanged"] += 1
                continue
            row.value, row.correction, row.comment = wanted
            row.updated_at = rating.updated_at
            replaced.append(row)
        created = Reward.objects.bulk_create(row for key, row in ratings.items() if key not in present)
        Reward.objects.bulk_update(replaced, ["value", "correction", "comment", "updated_at"])
        self.counts["rewards_created"] += len(created)
        self.counts["rewards_replaced"] += len(replaced)
        by_interaction: dict[UUID, list[Reward]] = {pk: [] for pk in rated}
        for (pk, _, _), row in (ratings | present).items():
            by_interaction[pk].append(row)
        settling = [(log[pk], rows) for pk, rows in by_interaction.items()]
        policy = active_policy()
        try:
            pulls_settle(settling, Pull.objects.in_bulk(list(rated)), policy, Counter(row.interaction_id for row in created))
        except WeightsOutgrown:
            rebuild(policy, lambda fraction, message: None, sums=True)  # counts these ratings as well

    def _bad(self, number: int, error: AdaptRAGError) -> None:
        message = f"line {number}: {error.message}"
        if self.stop:
            raise InvalidLogLine(f"{message} Nothing was imported.", line=number) from error
        self.counts["skipped"] += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append({"line": number, "message": message})


def _found(pk: UUID, log: dict[UUID, Interaction]) -> Interaction:
    if pk not in log:
        raise InvalidRecord(f"it rates the interaction {pk}, which is neither in the log here nor on a line before.")
    return log[pk]


class _Names:
    """What the names in a file stand for here: agents, collections, users."""

    def __init__(self, create_missing: bool) -> None:
        self.create_missing = create_missing
        self.variants = {(variant.name, variant.revision): variant for variant in AgentVariant.objects.all()}
        self.newest = dict(sorted(self.variants))
        self.collections = {collection.name: collection for collection in Collection.objects.all()}
        self.users: dict[str | None, Any] = {None: None}
        self.created = {"agents_created": 0, "collections_created": 0}

    def resolved(self, record: InteractionRecord) -> Interaction:
        """The record's row with its references; a user that is not here stays out."""
        row = record.row
        row.variant = self._variant(record.agent, record.revision)
        row.collection = self._collection(record.collection)
        if record.asked_by not in self.users:
            self.users[record.asked_by] = get_user_model().objects.filter(username=record.asked_by).first()
        row.asked_by = self.users[record.asked_by]
        return row

    def _variant(self, name: str, revision: int | None) -> AgentVariant:
        revision = revision or self.newest.get(name, 1)
        if (name, revision) not in self.variants:
            if not self.create_missing:
                known = ", ".join(sorted(self.newest)) or "none yet"
                raise InvalidRecord(
                    f"there is no agent {name!r} with revision {revision} here (agents: {known}). Register it, or import with "
                    "--create-missing to add it as a retired one."
                )
            variant = AgentVariant(
                name=name,
                revision=revision,
                strategy=name if name in STRATEGIES else "imported",
                state=AgentVariant.State.RETIRED,
                enabled=False,
                note="Known only from an imported log.",
            )
            self._create(variant, "agents_created", "agent")
            self.variants[name, revision] = variant
            self.newest[name] = max(revision, self.newest.get(name, 1))
        return self.variants[name, revision]

    def _collection(self, name: str | None) -> Collection | None:
        if name is not None and name not in self.collections:
            if not self.create_missing:
                raise InvalidRecord(f"there is no collection {name!r} here. Create it, or import with --create-missing.")
            collection = Collection(name=name)
            self._create(collection, "collections_created", "collection")
            self.collections[name] = collection
        return self.collections[name] if name is not None else None

    def _create(self, row: AgentVariant | Collection, counter: str, kind: str) -> None:
        try:
            row.full_clean()
        except ValidationError as error:
            _, messages = next(iter(error.message_dict.items()))
            raise InvalidRecord(f"{row.name!r} can't be the name of {kind}: {messages[0]}") from error
        row.save()
        self.created[counter] += 1
