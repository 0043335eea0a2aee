"""Logs of decisions as files: full-information routing logs (replay) and logged bandit rounds (off-policy evaluation)."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptrag.common.errors import InvalidInput

Array = np.ndarray


class BadLog(InvalidInput):
    """A routing log or a log of bandit rounds that can't be used; `line` names the place."""

    code = "bad_log"


@dataclass(frozen=True, kw_only=True)
class RoutingLog:
    """Questions of which every arm's reward is known.

    rewards: float array in [0, 1], shape (n, K), one column per arm. costs: the same shape in USD, NaN where unknown.
    categories: the index into `category_names` of each row, shape (n,). questions: the texts, for policies that read them.
    """

    arms: tuple[str, ...]
    category_names: tuple[str, ...]
    categories: Array
    rewards: Array
    costs: Array
    questions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, kw_only=True)
class LoggedRounds:
    """Decisions of which only the chosen arm's reward is known, with the probability with which it was chosen.

    actions: index into `arms`, shape (n,); strata: index of the row's kind (position or category), shape (n,), into
    `stratum_names`; rewards in [0, 1] and propensities in (0, 1], float arrays, shape (n,). available: bool, shape (n, K), the
    arms that could be chosen; None where all could. times: in days, rising, shape (n,), None without a clock. contexts: what a
    policy may know of each row, shape (n, D).
    """

    arms: tuple[str, ...]
    stratum_names: tuple[str, ...]
    actions: Array
    strata: Array
    rewards: Array
    propensities: Array
    available: Array | None = None
    times: Array | None = None
    contexts: Array | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    def only(self, rows: Array) -> LoggedRounds:
        """The rows marked in a bool array, shape (n,); arms and strata keep their codes."""
        parts = {name: getattr(self, name)[rows] for name in ("actions", "strata", "rewards", "propensities")}
        given = {name: getattr(self, name) for name in ("available", "times", "contexts")}
        parts |= {name: None if value is None else value[rows] for name, value in given.items()}
        return LoggedRounds(arms=self.arms, stratum_names=self.stratum_names, **parts)


def read_routing_log(path: Path) -> RoutingLog:
    """JSON lines `{"category", "rewards": {arm: r}, "costs"?: {arm: usd}, "question"?}`, plain or .gz.

    Raises BadLog with the line number of a row that is no such thing, or whose arms are not those of the first row."""
    rows, arms = [], ()
    for number, row in _rows(path):
        rewards = row.get("rewards")
        if not isinstance(rewards, dict) or not rewards:
            raise _bad(path, number, '"rewards" must map each arm to its reward.')
        arms = arms or tuple(rewards)
        if set(rewards) != set(arms):
            odd = ", ".join(sorted(set(arms) ^ set(rewards)))
            raise _bad(path, number, f"every row needs the same arms as the first; these are only in one of the two: {odd}.")
        values = [_unit(path, number, f"reward of {arm}", rewards[arm]) for arm in arms]
        costs = row.get("costs") or {}
        if not isinstance(costs, dict):
            raise _bad(path, number, '"costs" must map arms to USD.')
        costs = [_number(path, number, f"cost of {arm}", costs[arm]) if arm in costs else math.nan for arm in arms]
        rows.append((str(row.get("category") or ""), values, costs, str(row.get("question") or "")))
    categories, values, costs, questions = zip(*rows, strict=True)
    names, codes = np.unique(np.array(categories), return_inverse=True)
    return RoutingLog(
        arms=arms, category_names=tuple(names.tolist()), categories=codes, rewards=np.array(values), costs=np.array(costs),
        questions=questions,
    )  # fmt: skip


def read_logged_rounds(path: Path, *, contexts: bool = False) -> LoggedRounds:
    """JSON lines `{"arm", "reward", "propensity", "position"?, "category"?, "context"?}`, plain or .gz.

    Rows of different position or category are different strata. contexts: read each row's "context" too, a list of as many
    numbers in every row; else it is left aside, whatever it holds. Raises BadLog with the line number."""
    rows, given = [], []
    for number, row in _rows(path):
        if row.get("arm") is None:
            raise _bad(path, number, '"arm" is missing.')
        propensity = _unit(path, number, "propensity", row.get("propensity"))
        if propensity == 0:
            raise _bad(path, number, "propensity is 0, but the arm was chosen; leave pinned and forced choices out.")
        stratum = " ".join(str(row[key]) for key in ("category", "position") if row.get(key) is not None)
        rows.append((row["arm"], stratum, _unit(path, number, "reward", row.get("reward")), propensity))
        if contexts:
            given.append(_context(path, number, row.get("context"), len(given[0]) if given else None))
    arms, strata, rewards, propensities = zip(*rows, strict=True)
    arm_names = sorted(set(arms), key=lambda arm: (isinstance(arm, str), arm))
    index = {arm: code for code, arm in enumerate(arm_names)}
    stratum_names, codes = np.unique(np.array(strata), return_inverse=True)
    return LoggedRounds(
        arms=tuple(map(str, arm_names)), stratum_names=tuple(stratum_names.tolist()),
        actions=np.array([index[arm] for arm in arms]), strata=codes, rewards=np.array(rewards),
        propensities=np.array(propensities), contexts=np.array(given) if contexts else None,
    )  # fmt: skip


def _context(path: Path, number: int, value: Any, length: int | None) -> list[float]:
    if not isinstance(value, list) or not value or length not in (None, len(value)):
        wanted = "a list of numbers" if length is None else f"a list of {length} numbers, as in the first row"
        raise _bad(path, number, f'this policy reads "context", which must be {wanted}, not {str(value)[:60]}.')
    return [_number(path, number, "a number of the context", one) for one in value]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    empty = True
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise _bad(path, number, f"no JSON: {error}.") from error
                if not isinstance(row, dict):
                    raise _bad(path, number, "each line must be a JSON object.")
                empty = False
                yield number, row
    except FileNotFoundError as error:
        raise BadLog(f"There is no file {path}.") from error
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise BadLog(f"{path.name} can't be read: {error}.") from error
    if empty:
        raise BadLog(f"{path.name} has no rows.")


def _unit(path: Path, number: int, what: str, value: Any) -> float:
    value = _number(path, number, what, value)
    if not 0 <= value <= 1:
        raise _bad(path, number, f"{what} is {value:g}; it must lie between 0 and 1.")
    return value


def _number(path: Path, number: int, what: str, value: Any) -> float:
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad(path, number, f"{what} is {value!r}, not a number.")
    return float(value)


def _bad(path: Path, number: int, complaint: str) -> BadLog:
    return BadLog(f"{path.name}, line {number}: {complaint}", line=number)
