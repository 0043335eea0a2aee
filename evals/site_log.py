"""This site's log as rounds for off-policy evaluation: the decisions that a policy drew, and those it must not count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from adaptrag.common.errors import Conflict
from evals.logs import LoggedRounds
from rewards.models import Interaction, PriorReward, Pull
from rewards.services import linear
from rewards.services.evidence import SECONDS_A_DAY

Array = np.ndarray
MOST_ROUNDS = 20_000  # the newest; a policy's walk through them takes about ten seconds
DRAWN = (Interaction.Mode.BANDIT, Interaction.Mode.IMPORTED)
LEFT_OUT = {
    Interaction.Mode.EXPERIMENT: "given by an experiment",
    Interaction.Mode.PINNED: "pinned",
    Interaction.Mode.STICKY: "kept for a session",
    Interaction.Mode.MANUAL: "forced by the caller",
    Interaction.Mode.IMPORTED: "imported without a propensity",
}


class NothingLogged(Conflict):
    """No rated decision of a policy is in the log."""

    code = "nothing_logged"


@dataclass(frozen=True, kw_only=True)
class SiteLog:
    """rounds: every interaction with feedback that counts, in the order of time, arms being agents and strata categories; a
    policy learns from all of them. An agent's propensity is the sum over its revisions among the candidates: while a canary
    is tried, the agent is what the log had, both revisions in the shares that they got.
    drawn: bool, shape (n,), the decisions that were drawn with known propensities, by which a policy is judged.
    left_out: why and how many others were not. priors: (pulls, totals), shape (categories, agents)."""

    rounds: LoggedRounds
    drawn: Array
    left_out: dict[str, int]
    priors: tuple[Array, Array]
    embeddings: Array | None

    def judged(self, target: Array) -> tuple[LoggedRounds, Array]:
        """The rounds to estimate from, with their rows of the target. Raises NothingLogged where there are none."""
        if self.drawn.sum() < 5:
            raise NothingLogged(
                f"Only {self.drawn.sum()} rated answers were drawn by a policy with a known probability, which says nothing "
                "about another. Let people ask and rate first."
            )
        return self.rounds.only(self.drawn), target[self.drawn]


def site_log(*, reads_question: bool = False) -> SiteLog:
    """The newest MOST_ROUNDS interactions with feedback. Raises NothingLogged where there are none."""
    columns = ("pk", "value", "interaction__variant__name", "interaction__category", "interaction__mode")
    columns += ("interaction__propensity", "interaction__fallback", "interaction__candidates", "at")
    rows = list(Pull.objects.order_by("-at", "-pk").values_list(*columns)[:MOST_ROUNDS])[::-1]
    if not rows:
        raise NothingLogged("No answer has been rated yet, so nothing can be estimated. Let people ask and rate first.")
    arms = sorted({row[2] for row in rows} | {one["agent"] for row in rows for one in row[7]})
    strata = sorted({row[3] for row in rows})
    arm_of, stratum_of = ({name: code for code, name in enumerate(names)} for names in (arms, strata))
    drawn, left_out = np.zeros(len(rows), dtype=bool), Counter()
    available, propensities = np.ones((len(rows), len(arms)), dtype=bool), np.ones(len(rows))
    for index, (_, _, agent, _, mode, propensity, fallback, candidates, _) in enumerate(rows):
        if candidates:
            available[index] = False
            available[index, [arm_of[one["agent"]] for one in candidates] + [arm_of[agent]]] = True
        chances = _chances(candidates)
        why = _left_out(mode, propensity, fallback, chances)
        if why:
            left_out[why] += 1
        else:
            drawn[index], propensities[index] = True, min(chances.get(agent, propensity), 1.0)
    rounds = LoggedRounds(
        arms=tuple(arms), stratum_names=tuple(strata), actions=np.array([arm_of[row[2]] for row in rows]),
        strata=np.array([stratum_of[row[3]] for row in rows]), rewards=np.clip([row[1] for row in rows], 0, 1),
        propensities=propensities, available=available, times=np.array([row[8].timestamp() / SECONDS_A_DAY for row in rows]),
    )  # fmt: skip
    priors = np.zeros((2, len(strata), len(arms)))
    for prior in PriorReward.objects.filter(agent_name__in=arms, category__in=strata):
        priors[:, stratum_of[prior.category], arm_of[prior.agent_name]] = prior.pulls, prior.total
    embeddings = None
    if reads_question:
        vectors = linear.vectors_for(row[0] for row in rows)
        embeddings = np.stack([vectors[row[0]] for row in rows])
    return SiteLog(rounds=rounds, drawn=drawn, left_out=dict(left_out), priors=(priors[0], priors[1]), embeddings=embeddings)


def _chances(candidates: list[dict]) -> dict[str, float]:
    """The probability of each agent; an active revision and its canary are one agent."""
    chances: dict[str, float] = {}
    for one in candidates:
        chances[one["agent"]] = chances.get(one["agent"], 0.0) + one["probability"]
    return chances


def _left_out(mode: str, propensity: float | None, fallback: dict | None, chances: dict[str, float]) -> str:
    if propensity is None or mode not in DRAWN:
        return LEFT_OUT.get(mode, "without a propensity")
    if fallback:
        return "answered by a fall-back"
    if 0 in chances.values():
        return "with an agent that had no chance"
    return ""
