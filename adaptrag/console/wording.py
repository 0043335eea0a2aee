"""Figures and choices, said in words."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.timesince import timesince

from rewards.models import Interaction

TYPICAL = 3  # answers from which a median says how long one takes, and not how long some took
RARE = 0.25  # an agent chosen with less probability than this was an exploration


def seconds(value: float) -> str:
    """0.04 -> "40 ms", 1.234 -> "1.2 s", 74 -> "74 s"."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def expectation(agent: str, timed: tuple[float, int] | None) -> str:
    """How long an answer takes here. agent: "" for whichever is chosen; timed: (median seconds, answers)."""
    if timed is None:
        return f"No answer{f' of {agent}' if agent else ''} was timed here yet."
    median, n = timed
    if n >= TYPICAL:
        return f"{f'{agent} takes' if agent else 'Answers take'} about {seconds(median)} here."
    answers = "answer" if n == 1 else f"{n} answers"
    whose = f"{agent}'s" if agent else "The"
    return f"{whose} {'one ' if n == 1 else ''}{answers} here took {'' if n == 1 else 'about '}{seconds(median)}."


def share(value: float) -> str:
    """0.031 -> "3 %", 0.0004 -> "under 1 %"."""
    return "under 1 %" if 0 < value < 0.005 else f"{value:.0%}".replace("%", " %")


def ago(at: datetime) -> str:
    """ "just now", "5 minutes ago", "2 days ago"."""
    if (timezone.now() - at).total_seconds() < 60:
        return "just now"
    return f"{timesince(at, depth=1)} ago"


def chosen_candidate(interaction: Interaction) -> dict[str, Any] | None:
    return next(
        (one for one in interaction.candidates if one.get("variant_id") == interaction.variant_id),
        None,
    )


def why(interaction: Interaction) -> str:
    """Why this agent answered, in a sentence or two."""
    if interaction.mode == Interaction.Mode.MANUAL:
        return "You chose this agent."
    if interaction.mode == Interaction.Mode.PINNED:
        return f"An operator has pinned {interaction.category} questions to this agent."
    if interaction.mode == Interaction.Mode.STICKY:
        return "This agent answered before in the same session, and the policy keeps sessions."
    if interaction.mode == Interaction.Mode.COMPARE:
        return "Asked side by side with other agents."
    if interaction.mode == Interaction.Mode.IMPORTED:
        return "Imported from a log."
    if interaction.mode == Interaction.Mode.EXPERIMENT:
        return f"The experiment {interaction.policy} gave this session its agent."
    chosen = chosen_candidate(interaction)
    if chosen is None or any("pulls" not in one for one in interaction.candidates):
        return ""  # an imported log need not say what its policy saw
    if len(interaction.candidates) == 1:
        return "The only agent that is switched on."
    others = [one for one in interaction.candidates if one is not chosen]
    kind = f"{interaction.category} questions"
    if all(not one["pulls"] for one in interaction.candidates):
        return f"No answer to {kind} was rated yet, so every agent gets its turn."
    best_other = max(others, key=lambda one: one["probability"])
    chance = f"{share(chosen['probability'])} of {kind} go to {chosen['agent']}"
    if chosen["probability"] >= best_other["probability"]:
        return f"{chance}: {_evidence(chosen)}. Next is {best_other['agent']}: {_evidence(best_other)}."
    begun = "A try, to learn more about this agent. " if chosen["probability"] < RARE else ""
    return f"{begun}{chance}: {_evidence(chosen)}. {best_other['agent']} leads: {_evidence(best_other)}."


def changed(outcome: str, arm: dict[str, Any] | None) -> str:
    """What a rating did, for the one who gave it. `arm` is rewards.services.FeedbackResult.arm."""
    if outcome == "unchanged":
        return "That is the rating you had given; nothing changed."
    begun = "Saved." if outcome == "created" else "Your rating was replaced."
    if arm is None:
        return f"{begun} It moves no agent, because this answer was not part of the routing."
    pulls = arm["pulls"]
    return (
        f"{begun} {arm['agent']} now has a mean of {arm['mean']:.2f} on {arm['category']} questions, "
        f"from {pulls:g} rated answer{'' if pulls == 1 else 's'}."
    )


def _evidence(candidate: dict[str, Any]) -> str:
    """Pulls hold priors and what a revision inherited, so they are no mere count of ratings."""
    if not candidate["pulls"]:
        return "not rated yet"
    return f"mean {candidate['mean']:.2f} from {candidate['pulls']:.3g} ratings and priors"


def place(page: int | None, where: dict[str, Any]) -> str:
    """Where a passage stands in its document: "sheet Costs, rows 4 to 9"."""
    words = [f"page {page}" if page else ""]
    words += [f"{kind} {where[kind]}" for kind in ("slide", "sheet") if where.get(kind)]
    for kind in ("rows", "lines"):
        if where.get(kind):
            first, last = where[kind]
            words.append(f"{kind} {first} to {last}" if last != first else f"{kind[:-1]} {first}")
    words.append(f"image {where['image']}" if where.get("image") else "")
    return ", ".join(filter(None, words))
