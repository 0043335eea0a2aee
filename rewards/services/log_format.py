"""The log as JSON lines: how interactions and rewards look in a file.

An interaction is one object with `interaction_id`, `question`, `agent`, `category` and, where known, the other columns of
its row under the row's names (`revision` is the agent's; `collection` and `asked_by` are names; `num_sources` counts
`sources`). A rating is one object with `interaction_id` and `reward` and, where known, `source`, `rater`, `correction`,
`comment`, `created_at`, `updated_at`; it follows its interaction. Lines of the file-based predecessor are the same with
fewer keys, so one reader takes both:

    {"interaction_id": "...", "question": "...", "agent": "naive_rag", "category": "factual", "top_k": 5, "num_sources": 3}
    {"interaction_id": "...", "reward": 0.9}

An object may be both at once. Unknown keys are ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from django.core.exceptions import ValidationError

from adaptrag.common.errors import InvalidInput
from rewards.models import Interaction, Reward
from rewards.services.feedback import COMMENT_MAX, CORRECTION_MAX, RATER_MAX, reward_checked, text_checked
from rewards.services.log_values import LISTS, problem_of

# The predecessor's ratings name nobody: an interaction's are then all by one rater, whose last one stands.
UNNAMED_RATER = "reward_log"
# An id that is no UUID gets one from its text, so that the same file always means the same interactions.
NAMESPACE = uuid5(NAMESPACE_URL, "adaptrag:reward_log")

_TEXTS = ("question", "category", "answer", "session", "model", "policy")
_COLUMNS = (
    *("state", "error", "question", "session", "category", "top_k", "answer", "model", "fallback", *LISTS),
    *("mode", "policy", "policy_revision", "propensity", "seed"),
    *("prompt_tokens", "completion_tokens", "cost_usd", "latency_ms"),
)
_REFERENCES = ("collection", "variant", "asked_by")


class InvalidRecord(InvalidInput):
    """What is wrong with one line; its number is added by whoever counts lines."""


@dataclass(frozen=True, kw_only=True)
class InteractionRecord:
    """`row` is unsaved and still lacks what the names stand for: agent (revision None: the newest), collection, user."""

    row: Interaction
    agent: str
    revision: int | None
    collection: str | None
    asked_by: str | None


@dataclass(frozen=True, kw_only=True)
class RewardRecord:
    row: Reward

    @property
    def key(self) -> tuple[UUID, str, str]:
        return self.row.interaction_id, self.row.source, self.row.rater


def interaction_line(interaction: Interaction) -> str:
    """One line for an interaction; `variant`, `collection` and `asked_by` should be loaded with it."""
    values: dict[str, Any] = {
        "interaction_id": str(interaction.pk),
        "created_at": interaction.created_at.isoformat(),
        "agent": interaction.variant.name,
        "revision": interaction.variant.revision,
        "collection": interaction.collection.name if interaction.collection else None,
        "asked_by": interaction.asked_by.get_username() if interaction.asked_by else None,
        "num_sources": len(interaction.sources),
    }
    values |= {name: getattr(interaction, name) for name in _COLUMNS}
    return _line(values)


def reward_line(reward: Reward) -> str:
    values = {
        "interaction_id": str(reward.interaction_id),
        "reward": reward.value,
        "source": reward.source,
        "rater": reward.rater,
        "correction": reward.correction,
        "comment": reward.comment,
        "created_at": reward.created_at.isoformat(),
        "updated_at": reward.updated_at.isoformat(),
    }
    return _line(values)


def _line(values: dict[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    # Valid inside JSON, but some readers end a line there.
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def parse_line(line: str | bytes, default_time: datetime) -> tuple[InteractionRecord | None, RewardRecord | None]:
    """What a line holds. `default_time` dates what has no date of its own. Raises InvalidInput that says what is wrong."""
    values = _object(line)
    pk = _identifier(values.get("interaction_id"))
    interaction = _interaction(pk, values, default_time) if "question" in values else None
    reward = _reward(pk, values, default_time) if values.get("reward") is not None else None
    if interaction is None and reward is None:
        raise InvalidRecord("it has neither a question nor a reward.")
    return interaction, reward


def _object(line: str | bytes) -> dict[str, Any]:
    try:
        text = line.decode() if isinstance(line, bytes) else line
        values = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if "\\u" in text:
            # NUL and lone surrogates are valid JSON that no database stores.
            if "\\u0000" in text:
                raise ValueError("it holds a NUL character")
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise InvalidRecord(f"it is not valid UTF-8 text ({error.reason}).") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"it is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InvalidRecord(f"it holds a {type(values).__name__} where an object belongs.")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _identifier(value: Any) -> UUID:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InvalidRecord(f"interaction_id must be a text, not {value!r}.")
    try:
        return UUID(str(value))
    except ValueError:
        return uuid5(NAMESPACE, str(value))


def _interaction(pk: UUID, values: dict[str, Any], default_time: datetime) -> InteractionRecord:
    agent, revision = values.get("agent"), values.get("revision")
    if not isinstance(agent, str) or not agent:
        raise InvalidRecord(f"agent must be the name of an agent, not {agent!r}.")
    if revision is not None and (isinstance(revision, bool) or not isinstance(revision, int) or revision < 1):
        raise InvalidRecord(f"revision must be a whole number from 1, not {revision!r}.")
    values = {key: value for key, value in values.items() if value is not None}
    for name in _TEXTS:
        if name in values and not isinstance(values[name], str):
            raise InvalidRecord(f"{name} must be text, not {str(values[name])!r:.50}.")
    if problem := problem_of(values):
        raise InvalidRecord(problem)
    row = Interaction(
        pk=pk, created_at=_time(values, ("created_at", "timestamp"), default_time), mode=Interaction.Mode.IMPORTED
    )
    for name in _COLUMNS:
        if name in values:
            setattr(row, name, values[name])
    if "sources" not in values and "num_sources" in values:
        row.trace = [*row.trace, {"step": "imported", "num_sources": values["num_sources"]}]
    try:
        row.clean_fields(exclude=_REFERENCES)
    except ValidationError as error:
        name, messages = next(iter(error.message_dict.items()))
        raise InvalidRecord(f"{name}: {messages[0]}") from error
    if row.propensity is not None and not 0 < row.propensity <= 1:
        # Off-policy evaluation divides by it.
        raise InvalidRecord(f"propensity must be above 0 and at most 1, or null where it is not known, not {row.propensity}.")
    for name in ("cost_usd", "latency_ms"):
        if not 0 <= getattr(row, name) < math.inf:
            raise InvalidRecord(f"{name} must be a number from 0, not {getattr(row, name)}.")
    return InteractionRecord(
        row=row, agent=agent, revision=revision, collection=_name(values, "collection"), asked_by=_name(values, "asked_by")
    )


def _reward(pk: UUID, values: dict[str, Any], default_time: datetime) -> RewardRecord:
    source = values.get("source", Reward.Source.USER)
    if source not in Reward.Source.values:
        raise InvalidRecord(f"unknown source {source!r}; there are {', '.join(Reward.Source.values)}.")
    created_at = _time(values, ("created_at", "timestamp"), default_time)
    row = Reward(
        interaction_id=pk,
        source=source,
        rater=text_checked("rater", values.get("rater") or UNNAMED_RATER, RATER_MAX),
        value=reward_checked(values["reward"]),
        correction=text_checked("correction", values.get("correction") or "", CORRECTION_MAX),
        comment=text_checked("comment", values.get("comment") or "", COMMENT_MAX),
        created_at=created_at,
        updated_at=_time(values, ("updated_at",), created_at),
    )
    return RewardRecord(row=row)


def _name(values: dict[str, Any], key: str) -> str | None:
    name = values.get(key)
    if name is not None and not isinstance(name, str):
        raise InvalidRecord(f"{key} must be a name, not {str(name)!r:.50}.")
    return name or None


def _time(values: dict[str, Any], keys: tuple[str, ...], default: datetime) -> datetime:
    """ISO 8601 text or Unix seconds under the first of `keys` that is there; without a zone it is UTC."""
    value = next((values[key] for key in keys if values.get(key) is not None), None)
    if value is None:
        return default
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise InvalidRecord(f"{str(value)!r:.50} is no time; use ISO 8601 such as 2026-11-22T10:00:00+00:00.") from error
