"""The real loop with users played by a data set: its gold answers rate (token F1) and correct what the agents say.

Routing, answering, logging and feedback are the production functions; only the person is simulated.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from django.db import connection

from adaptrag.common.errors import AdaptRAGError, Conflict, InvalidInput
from adaptrag.orchestrator import QueryRequest, query
from agents.selectors import collection_for, live_variant
from agents.services import agent_answer
from agents.strategies.base import AgentRequest
from evals.metrics import token_f1
from evals.sets import Item
from rewards.services import feedback_record

Progress = Callable[[float, str], Any]
T = TypeVar("T")
R = TypeVar("R")

RATER = "simulated"
CONTENT_WITH = 0.5  # a person corrects what is worse than this


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """How many questions are asked, of whom, and how the people behave.

    feedback_rate: share of answers that are rated. noise: standard deviation added to a rating, clipped to [0, 1].
    correct_rate: share of poorly answered questions for which the gold answer is given as a correction.
    The seed fixes the order of the questions and what people do; the router draws as it does in production.
    """

    rounds: int
    collection: str
    agents: tuple[str, ...] = ()
    feedback_rate: float = 1.0
    noise: float = 0.0
    correct_rate: float = 0.3
    parallel: int = 4
    top_k: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raises InvalidInput naming the value."""
        shares = [(name, 0, 1) for name in ("feedback_rate", "noise", "correct_rate")]
        for name, low, high in [("rounds", 1, 10_000_000), ("parallel", 1, 64), *shares]:
            if not low <= (value := getattr(self, name)) <= high:
                raise InvalidInput(f"--{name.replace('_', '-')} must lie between {low:g} and {high:g}, not {value:g}.")


@dataclass(frozen=True, kw_only=True)
class Round:
    """Who answered the question `key`, and how well: 0 where the answer failed, which is what the user got from it."""

    number: int
    key: str
    agent: str
    reward: float
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was played, in the order asked. alone: {agent: {question's key: reward}} of each agent asked by itself."""

    rounds: Sequence[Round]
    interrupted: bool = False
    alone: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_dict(self, window: int) -> dict[str, Any]:
        by_agent: dict[str, list[float]] = defaultdict(list)
        for played in self.rounds:
            by_agent[played.agent].append(played.reward)
        result = {
            "rounds": len(self.rounds),
            "failed": sum(played.failed for played in self.rounds),
            "interrupted": self.interrupted,
            "mean_reward": _mean([played.reward for played in self.rounds]),
            "windows": [_window(self.rounds[start : start + window]) for start in range(0, len(self.rounds), window)],
            "agents": {
                agent: {"mean_reward": _mean(rewards), "n": len(rewards)} for agent, rewards in sorted(by_agent.items())
            },
        }
        return result | (self._regret(result["windows"]) if self.alone and self.rounds else {})

    def _regret(self, windows: list[dict[str, Any]]) -> dict[str, Any]:
        """Reward that the same questions would have brought in addition; each window gets the best agent's, so far."""
        got = [played.reward for played in self.rounds]
        lost = {
            agent: list(accumulate(rewards[played.key] - played.reward for played in self.rounds))
            for agent, rewards in sorted(self.alone.items())
        }
        best = max(lost, key=lambda agent: lost[agent][-1])
        first = self.rounds[0].number
        for one in windows:
            one["regret"] = round(lost[best][one["to"] - first], 4)
        mean = sum(got) / len(got)
        ideal = sum(max(rewards[played.key] for rewards in self.alone.values()) for played in self.rounds)
        return {
            "alone": {
                agent: {"mean_reward": round(mean + total[-1] / len(got), 6), "regret": round(total[-1], 4)}
                for agent, total in lost.items()
            },
            "best_fixed": {"agent": best, "mean_reward": round(mean + lost[best][-1] / len(got), 6)},
            "regret": round(lost[best][-1], 4),
            "oracle": round(ideal / len(got), 6),
        }


class Journal:
    """The rounds of a simulation in a file, so that one that was interrupted goes on, or a finished one goes further."""

    def __init__(self, path: Path, simulation: Simulation, *, resume: bool) -> None:
        self.path = path
        self.rounds: list[Round] = []
        # How many rounds and how many at once may change; what was played stays comparable.
        header = {name: value for name, value in asdict(simulation).items() if name not in ("rounds", "parallel")}
        header = json.loads(json.dumps(header))
        if resume and path.is_file():
            stored, *lines = [line for line in path.read_text().splitlines() if line]
            if json.loads(stored) != header:
                raise Conflict(f"{path} holds a simulation with other settings: {stored}. Use those, or leave out --resume.")
            self.rounds = [Round(**json.loads(line)) for line in lines if line.endswith("}")]
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n")

    def add(self, played: Round) -> None:
        self.rounds.append(played)
        with self.path.open("a") as handle:
            handle.write(json.dumps(asdict(played)) + "\n")


def part_of(key: str) -> str:
    """A, B or C by the hash of a question's id: asked and trained on, gates, reports (60, 20 and 20 %)."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 100
    return "A" if place < 60 else "B" if place < 80 else "C"


def play(
    simulation: Simulation, items: Sequence[Item], journal: Journal, *, progress: Progress | None = None, window: int = 50
) -> Outcome:
    """Ask `rounds` questions, drawn from `items` in seeded order, each once before any twice, and rate the answers.

    Ctrl-C ends it: answers under way are awaited, and what was played is the outcome.
    """
    simulation.check()
    done = {played.number for played in journal.rounds}
    wanted = [(number, item) for number, item in _order(_answerable(items), simulation) if number not in done]
    interrupted = False
    try:
        for played in _mapped(lambda one: _play_round(simulation, *one), wanted, simulation.parallel):
            journal.add(played)
            if progress:
                recent = [one.reward for one in journal.rounds[-window:]]
                words = f"mean reward of the last {len(recent)}: {_mean(recent):.3f}"
                progress(len(journal.rounds) / (len(done) + len(wanted)), words)
    except KeyboardInterrupt:
        interrupted = True
    return Outcome(rounds=sorted(journal.rounds, key=lambda played: played.number), interrupted=interrupted)


def play_alone(
    simulation: Simulation, items: Sequence[Item], agents: Sequence[str], played: Iterable[Round], *, progress: Progress
) -> dict[str, dict[str, float]]:
    """What each agent, asked by itself, gets for the questions that were played: {agent: {key: reward}}. Nothing is logged."""
    asked = {item.key: item for item in items}
    keys = dict.fromkeys(one.key for one in played)
    collection, variants = collection_for(simulation.collection), {agent: live_variant(agent) for agent in agents}

    def one(task: tuple[str, str]) -> tuple[str, str, float]:
        agent, key = task
        request = AgentRequest(question=asked[key].question, collection=collection, top_k=simulation.top_k)
        try:
            return agent, key, token_f1(agent_answer(variants[agent], request).text, asked[key].answers)
        except AdaptRAGError:
            return agent, key, 0.0  # as in the loop: a failed answer is worth nothing

    rewards: dict[str, dict[str, float]] = {agent: {} for agent in agents}
    tasks = [(agent, key) for agent in agents for key in keys]
    for number, (agent, key, reward) in enumerate(_mapped(one, tasks, simulation.parallel), start=1):
        rewards[agent][key] = reward
        progress(number / len(tasks), f"each agent alone: {agent}")
    return rewards


def _answerable(items: Sequence[Item]) -> list[Item]:
    items = [item for item in items if item.answers]
    if not items:
        raise InvalidInput("The data set has no question with a gold answer, so nobody could rate the answers.")
    return items


def _order(items: list[Item], simulation: Simulation) -> Iterator[tuple[int, Item]]:
    """(number from 1, item); with more rounds the same order goes on."""
    generator, number = random.Random(simulation.seed), 0  # noqa: S311 not for secrets
    while True:
        for item in generator.sample(items, len(items)):
            number += 1
            if number > simulation.rounds:
                return
            yield number, item


def _mapped(function: Callable[[T], R], tasks: Sequence[T], parallel: int) -> Iterator[R]:
    """Results as they come, from up to `parallel` threads. When the caller stops, those under way end first."""
    # A surrounding transaction belongs to this thread alone: others would not see its rows.
    if parallel == 1 or connection.in_atomic_block:
        yield from map(function, tasks)
        return

    def in_thread(task: T) -> R:
        with closing(connection):
            return function(task)

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        running: set[Future[R]] = set()
        try:
            for task in tasks:
                running.add(pool.submit(in_thread, task))
                if len(running) >= parallel:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from [future.result() for future in ended]
        except KeyboardInterrupt:
            yield from [future.result() for future in running]
            raise
        yield from [future.result() for future in running]


def _play_round(simulation: Simulation, number: int, item: Item) -> Round:
    # A generator per round: the users behave the same whatever the order in which threads finish.
    person = random.Random(f"{simulation.seed}:{number}")  # noqa: S311 not for secrets
    request = QueryRequest(
        question=item.question,
        collection=simulation.collection,
        candidates=simulation.agents or None,
        top_k=simulation.top_k,
        # One person a question: sticky assignment per session must not hold the whole crowd at one agent.
        session=f"simulation-{simulation.seed}-{number}",
    )
    routed: list[dict[str, Any]] = []
    try:
        result = query(request, on_routed=routed.append)
    except AdaptRAGError as error:
        if "interaction_id" not in error.details:  # nothing was routed: the set-up is wrong, not an answer
            raise
        return Round(number=number, key=item.key, agent=routed[0]["agent"], reward=0.0, failed=True)
    quality = token_f1(result.answer, item.answers)
    if person.random() < simulation.feedback_rate:
        rating = min(1.0, max(0.0, quality + person.gauss(0.0, simulation.noise)))
        corrects = quality < CONTENT_WITH and person.random() < simulation.correct_rate
        feedback_record(
            interaction_id=result.interaction_id,
            reward=rating,
            rater=RATER,
            correction=item.answers[0] if corrects else "",
        )
    return Round(number=number, key=item.key, agent=result.agent, reward=quality)


def _window(played: Sequence[Round]) -> dict[str, Any]:
    counts = Counter(single.agent for single in played)
    return {
        "from": played[0].number,
        "to": played[-1].number,
        "mean_reward": _mean([single.reward for single in played]),
        "traffic": {agent: round(count / len(played), 4) for agent, count in sorted(counts.items())},
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6) if values else 0.0
