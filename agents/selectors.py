"""Reading agents, collections and documents."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from adaptrag.common.errors import NotFound
from adaptrag.common.prepared import Prepared
from agents.errors import NothingIngested, UnknownAgent, UnknownCollection
from agents.models import AgentVariant, Collection, DerivedIndex, DocumentImage
from agents.strategies import STRATEGIES

LIVE_STATES = (AgentVariant.State.CANARY, AgentVariant.State.ACTIVE)

# What no answer needs stays in the database: each column costs 3 us a row, for every question.
_UNREAD = ("note", "created_by")
_ARTIFACT_UNREAD = ("provenance", "parameters", "metrics", "versions", "created_by", "created_at")
_live = Prepared(
    lambda: (
        AgentVariant.objects.filter(state__in=LIVE_STATES)
        .select_related("artifact")
        .defer(*_UNREAD, *(f"artifact__{name}" for name in _ARTIFACT_UNREAD))
        .order_by("name", "state", "-revision")
    )
)
_derived = Prepared(lambda name: DerivedIndex.objects.filter(collection__name=name).order_by().values_list("kind"))
_named = Prepared(lambda name: Collection.objects.filter(name=name).order_by())


def live_variants() -> list[AgentVariant]:
    """The newest active revision of every agent and the newest that is tried beside it as a canary, where they are switched on;
    ordered by name, the active one first. One query."""
    newest: dict[tuple[str, str], AgentVariant] = {}
    for variant in _live():
        newest.setdefault((variant.name, variant.state), variant)
    return [variant for variant in newest.values() if variant.enabled]


def answering_variants() -> list[AgentVariant]:
    """Of every agent the revision that its name answers with, ordered by name: the active one, else its canary. One query."""
    found: dict[str, AgentVariant] = {}
    for variant in live_variants():
        found.setdefault(variant.name, variant)
    return list(found.values())


def variants_ready(variants: list[AgentVariant], collection: Collection) -> list[AgentVariant]:
    """Those whose strategy finds in the collection what it searches besides passages; all of them if that is none.

    Sentences, children and the graph of a new collection are made a moment after its passages' index.
    """
    needs = {variant.pk: set(getattr(STRATEGIES.get(variant.strategy), "needs", ())) for variant in variants}
    if not any(needs.values()):
        return variants
    there = {kind for (kind,) in _derived(collection.name)}
    return [variant for variant in variants if needs[variant.pk] <= there] or variants


def variant_ready(variant: AgentVariant, collection: Collection) -> bool:
    """Whether its strategy finds in the collection what it searches besides passages."""
    needs = set(getattr(STRATEGIES.get(variant.strategy), "needs", ()))
    return not needs or needs <= {kind for (kind,) in _derived(collection.name)}


def live_variant(name: str) -> AgentVariant:
    """The newest active revision of one agent, its canary where none is active; "name@revision" is that revision, a candidate
    too.

    Raises UnknownAgent, which names those there are.
    """
    agent, at, revision = name.partition("@")
    rows = AgentVariant.objects.select_related("artifact").filter(name=agent).order_by("-revision")
    if at:
        number = int(revision) if revision.isdecimal() and len(revision) < 10 else 0
        variant = rows.filter(revision=number).exclude(state=AgentVariant.State.RETIRED).first()
    else:
        variant = rows.filter(state__in=LIVE_STATES).order_by("state", "-revision").first()  # "active" sorts before "canary"
    if variant is None or not variant.enabled:
        known = ", ".join(variant.name for variant in answering_variants()) or "none yet: register one in the admin"
        state = "is switched off, retired or a candidate" if rows.exists() else "does not exist"
        raise UnknownAgent(f"The agent {name!r} {state}. Agents that answer: {known}.", agent=name)
    return variant


def collection_for(name: str | None) -> Collection:
    """The collection of that name, or the default one. Raises UnknownCollection, which names those there are.

    The default one comes with its first document: where it is missing no name is wrong, and NothingIngested is raised.
    """
    wanted = settings.ADAPTRAG_DEFAULT_COLLECTION if name is None else name
    found = _named(wanted)
    if not found:
        known = ", ".join(Collection.objects.values_list("name", flat=True))
        if wanted == settings.ADAPTRAG_DEFAULT_COLLECTION:
            others = f", or name another collection: {known}" if known else ""
            raise NothingIngested(
                f"The collection {wanted!r} has no documents yet. Add some in the admin or with manage.py ingest{others}.",
                collection=wanted,
            )
        known = known or "none yet: add documents first"
        raise UnknownCollection(f"There is no collection {wanted!r}. Collections: {known}.", collection=wanted)
    return found[0]


def image_path(image: DocumentImage) -> Path:
    """Its file. Raises NotFound where that is gone."""
    path = Path(settings.MEDIA_ROOT) / image.file.name
    if not path.is_file():
        raise NotFound(f"The file of image {image.pk} is missing. Upload its document again.", image=image.pk)
    return path
