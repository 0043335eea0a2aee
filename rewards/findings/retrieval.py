"""Findings on what is retrieved: how much, and from which documents."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from rewards.findings.base import Action, Array, Finding, Log, both, sides, signed
from rewards.findings.effects import effect

DOCUMENTS = 200  # those most often met are tested; each test costs the others power


def top_k(log: Log) -> Iterator[Finding]:
    """Of the agents that answer now, in each collection by itself, whose default it is."""
    live = np.isin(log.agent, [index for index, agent in enumerate(log.agents) if agent in log.live])
    for index, collection in enumerate(log.collections):
        inside = live & (log.collection == index)
        if inside.any():
            yield from _top_k_of(log, collection, inside)


def _top_k_of(log: Log, collection: str, of: Array) -> Iterator[Finding]:
    usual = Counter(log.top_k[of].tolist()).most_common(1)[0][0]
    for other in sorted(set(log.top_k[of].tolist()) - {usual}):
        rows = of & ((log.top_k == usual) | (log.top_k == other))
        inside = log.top_k[rows] == other
        if sides(inside) and (found := effect(inside.astype(float), log.reward[rows], both(log)[rows])):
            better, worse = (int(other), int(usual)) if found.value > 0 else (int(usual), int(other))
            present = log.top_ks.get(collection)
            values = {"collection": collection, "top_k": better}
            yield Finding(
                key=f"top_k:{collection}:{other}",
                kind="top_k",
                title=f"top_k {better} brings better answers than {worse} in {collection}",
                detail=f"top_k {other:g} against {usual:g}, within agents and categories: {signed(found.value)}. "
                f"Who asks without top_k gets {present}.{_read_by_few(log, rows, max(better, worse))}",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=int(inside.sum()),
                p=found.p,
                action=None
                if present in (None, better)
                else Action(kind="top_k", label=f"Set the top_k of {collection} to {better}", values=values),
            )


def _read_by_few(log: Log, rows: Array, top_k: int) -> str:
    """Which agents put fewer passages than that in the prompt, so that top_k is not what their model reads."""
    asked = [log.live[log.agents[index]] for index in sorted(set(log.agent[rows].tolist()))]
    few = [one for one in asked if one.prompt_passages is not None and one.prompt_passages < top_k]
    if not few:
        return ""
    told = ", ".join(f"{one.agent} {one.prompt_passages}" for one in few)
    return (
        f" Not all of these passages are read: of the top_k that are found the prompt holds only prompt_passages ({told}). "
        "Beyond that top_k changes what is searched and listed as sources; revise the agents to let them read more."
    )


def documents(log: Log) -> Iterator[Finding]:
    newest = slice(len(log.reward) - len(log.documents), None)
    reward, cells = log.reward[newest], both(log)[newest]
    where: dict[str, list[int]] = defaultdict(list)
    for row, names in enumerate(log.documents):
        for name in names:
            where[name].append(row)
    for name, rows in sorted(where.items(), key=lambda one: (-len(one[1]), one[0]))[:DOCUMENTS]:
        inside = np.zeros(len(reward), bool)
        inside[rows] = True
        if sides(inside) and (found := effect(inside.astype(float), reward, cells)):
            yield Finding(
                key=f"document:{name}",
                kind="document",
                title=f"Answers from “{name}” are rated worse",
                detail=f"Mean reward {reward[inside].mean():.2f}, {signed(found.value)} against answers without it, within "
                "agents and categories. Read it: it may be out of date, or cut badly.",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=int(inside.sum()),
                p=found.p_below,
            )
