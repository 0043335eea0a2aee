"""Analysis of the log: findings, each with numbers, an interval and, where there is one, an action.

The statistics are in rewards.findings; this module reads the rows that they need. What an action names is carried out by
adaptrag.console.improving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.db.models import Q
from django.utils import timezone

from agents.classifier import content_words
from agents.models import AgentVariant, Collection
from agents.selectors import live_variants
from agents.strategies import STRATEGIES
from agents.strategies.prompt import abstains
from rewards.findings import RATE, Asked, Finding, Log, Revision, analyse
from rewards.models import Interaction, PriorReward, Pull
from rewards.selectors import taking_variants

DAYS = 30
RATINGS = 20_000  # the newest that are analysed; with more, reading them takes longer than a page should
TEXTS = 3_000  # the newest whose answers and passages are read
CONTENT_WITH = 0.5  # an answer that was rated below counts as a bad one
COLLECTED = 50  # questions that an action adds to an eval set


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings, strongest first. n: rated answers analysed, of those asked since `since`; read: questions whose texts were."""

    at: datetime
    since: datetime
    n: int
    read: int
    findings: list[Finding]

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "since": self.since.isoformat(),
            "ratings": self.n,
            "questions": self.read,
            "false_discovery_rate": RATE,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def improvement_report(since: datetime | None = None) -> Report:
    """Analyse what was asked from `since` on (default: the last 30 days), at most the newest RATINGS rated answers."""
    now = timezone.now()
    since = since or now - timedelta(days=DAYS)
    texts = list(
        Interaction.objects.filter(created_at__gte=since, state=Interaction.State.ANSWERED)
        .exclude(mode=Interaction.Mode.COMPARE)
        .order_by("-created_at")
        .values_list("pk", "question", "answer", "sources")[:TEXTS]
    )
    used = {pk: frozenset(one["document"] for one in sources if one.get("used")) for pk, _, _, sources in texts}
    log, rewards = _log(since, used)
    asked = [
        Asked(question=question, supported=(bool(used[pk]) and not abstains(answer)) or rewards.get(pk, 0.0) >= CONTENT_WITH)
        for pk, question, answer, _ in texts
    ]
    return Report(at=now, since=since, n=len(log.reward), read=len(texts), findings=analyse(log, asked))


def _log(since: datetime, used: Mapping[Any, frozenset[str]]) -> tuple[Log, dict[Any, float]]:
    columns = ("pk", "at", "value", "arm__category", "arm__variant_id", "interaction__top_k", "interaction__question")
    columns += ("interaction__collection__name",)
    rows = list(Pull.objects.filter(at__gte=since).order_by("-at").values_list(*columns)[:RATINGS])[::-1]
    keys, times, values, categories, variants, top_k, questions, places = (
        zip(*rows, strict=True) if rows else ((),) * len(columns)
    )
    label, live = _revisions(set(variants))
    agents, collections = [label[pk] for pk in variants], [place or "" for place in places]
    names, kinds, libraries = sorted(set(agents)), sorted(set(categories)), sorted(set(collections) - {""})
    place_of = {name: place for place, name in enumerate(libraries)}
    local = [timezone.localtime(at) for at in times]
    # The newest rated answers whose passages were read: a run at the end, since both are in the order of time.
    documents = [used.get(key) for key in keys]
    begin = next((row for row in range(len(documents), 0, -1) if documents[row - 1] is None), 0)
    log = Log(
        reward=np.array(values, dtype=float),
        agent=np.array([names.index(name) for name in agents], dtype=int),
        category=np.array([kinds.index(name) for name in categories], dtype=int),
        top_k=np.array(top_k, dtype=int),
        words=np.array([len(question.split()) for question in questions], dtype=int),
        hour=np.array([at.hour + at.minute / 60 for at in local], dtype=float),
        agents=names,
        categories=kinds,
        live=live,
        collection=np.array([place_of.get(name, -1) for name in collections], dtype=int),
        collections=libraries,
        top_ks=dict(Collection.objects.values_list("name", "top_k")),
        documents=documents[begin:],
        priors={(one.category, one.agent_name): (one.pulls, one.total) for one in PriorReward.objects.all()},
    )
    return log, dict(zip(keys, values, strict=True))


def _revisions(rated: set[int]) -> tuple[dict[int, str], dict[str, Revision]]:
    """What each rated variant is called, and those that answer now under that name."""
    answering = live_variants()
    taking = {variant.pk for variant in taking_variants(answering)}
    active = {variant.pk for variant in answering if variant.state == AgentVariant.State.ACTIVE}
    known = AgentVariant.objects.only("name", "revision").in_bulk(rated)
    label = {pk: variant.name if pk in active else str(variant) for pk, variant in known.items()}
    live = {
        label[variant.pk]: Revision(
            agent=variant.name,
            revision=variant.revision,
            canary=variant.pk not in active,
            takes=variant.pk in taking,
            prompt_passages=_prompt_passages(variant),
        )
        for variant in answering
        if variant.pk in label
    }
    return label, live


def _prompt_passages(variant: AgentVariant) -> int | None:
    strategy = STRATEGIES.get(variant.strategy)
    return None if strategy is None else variant.parameters.get("prompt_passages", strategy.Parameters.prompt_passages)


def improvement_questions(values: Mapping[str, Any], since: datetime | None = None) -> list[Interaction]:
    """The questions that an `eval_set` action means, the worst rated first, at most COLLECTED; ratings come with them.

    values: category, agent_name, newest (of that agent's rated answers), words_at_most, words_at_least, unsupported, word."""
    since = since or timezone.now() - timedelta(days=DAYS)
    rows = Interaction.objects.filter(created_at__gte=since, state=Interaction.State.ANSWERED).exclude(
        mode=Interaction.Mode.COMPARE
    )
    if "category" in values:
        rows = rows.filter(category=values["category"])
    if "agent_name" in values:
        rows = rows.filter(variant__name=values["agent_name"])
    if "word" in values:
        rows = rows.filter(question__icontains=values["word"])
    poor = Q(pull__value__lt=CONTENT_WITH)
    if values.get("unsupported"):
        poor |= Q(pull__isnull=True)
    rows = rows.filter(poor).select_related("pull").prefetch_related("rewards").order_by("-created_at")
    newest = min(int(values.get("newest", TEXTS)), TEXTS)
    chosen = [row for row in rows[:newest] if _meant(row, values)]
    return sorted(chosen, key=lambda row: row.pull.value if hasattr(row, "pull") else 1.0)[:COLLECTED]


def _meant(row: Interaction, values: Mapping[str, Any]) -> bool:
    words = len(row.question.split())
    if not values.get("words_at_least", 0) <= words <= values.get("words_at_most", words):
        return False
    if "word" in values and values["word"] not in content_words(row.question):
        return False
    supported = any(one.get("used") for one in row.sources) and not abstains(row.answer)
    return not (values.get("unsupported") and supported)
