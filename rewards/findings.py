"""What a log of rated answers says about how to do better: tested statements with intervals. Pure: arrays in, findings out.

Every statement is a test on the same log, so their p-values are corrected together (Benjamini & Hochberg, 1995): of the
findings that are shown, at most RATE are expected to be chance, and a log in which nothing matters gives any finding at all
about as rarely. Rewards are compared within agents and categories where both matter, so that one agent's questions being harder
is not taken for the agent being worse.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from agents.classifier import content_words

Array = np.ndarray
RATE = 0.05  # expected share of chance findings among those shown
LEAST = 20  # answers on each side of a comparison; below, an interval is too wide to act on
DOCUMENTS, WORDS = 200, 50  # those most often met are tested; each test costs the others power
PAUSE_BELOW, RETIRE_BELOW = 0.05, 0.01  # probability of being the best in any category


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A revision of an agent that answers. takes: it is not paused; prompt_passages: what it puts in the prompt at most."""

    agent: str
    revision: int
    canary: bool = False
    takes: bool = True
    prompt_passages: int | None = None


@dataclass(frozen=True, kw_only=True)
class Log:
    """Rated answers in the order of time; arrays of shape (n,).

    reward: in [0, 1]. agent, category, collection: indices into the names. words: the question's length. hour: of the day, 0
    to 24, local. agents: of each revision with ratings its name: the agent's for the active one, with the number for others,
    whose ratings say nothing of how the active one does. live: those that answer now, by that name.
    top_ks: each collection's present default.
    documents: names of the documents in each answer's prompt, of the newest len(documents) answers.
    """

    reward: Array
    agent: Array
    category: Array
    top_k: Array
    words: Array
    hour: Array
    agents: Sequence[str]
    categories: Sequence[str]
    live: Mapping[str, Revision]
    collection: Array
    collections: Sequence[str]
    top_ks: Mapping[str, int]
    documents: Sequence[frozenset[str]] = ()
    priors: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # (category, agent) -> (pulls, total)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, rated or not. supported: a passage stood in the prompt and the answer did not abstain."""

    question: str
    supported: bool


@dataclass(frozen=True, kw_only=True)
class Action:
    """What an operator can do about it with a click. kind: pause, retire, prior, top_k, eval_set; values are the service's."""

    kind: str
    label: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """estimate, low, high: the effect in reward units (of `unsupported`: a share) with its 95 % interval, n answers behind it.

    q: the p-value after the correction; None for a plain count. key names the finding from one report to the next.
    """

    key: str
    kind: str
    title: str
    detail: str
    estimate: float
    low: float
    high: float
    n: int
    p: float | None = None
    q: float | None = None
    action: Action | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A slope with its 95 % interval and the p-values of its being 0, or not below it."""

    value: float
    low: float
    high: float
    p: float
    p_below: float


def effect(x: Array, y: Array, cells: Array, *, chosen_of: int = 1) -> Effect | None:
    """The slope of y on x within cells. x, y: float arrays, shape (n,); cells: int array. None where x does not vary.

    chosen_of: how many x this one was chosen from by its slope; the interval then holds for all of them (Bonferroni).

    Fixed effects of the cells; the variance is heteroskedasticity-robust (HC2; MacKinnon & White, 1985) with the residuals
    under no effect, which keeps its size for groups whose rewards are all alike; degrees of freedom by how many rows carry
    the slope.
    """
    from scipy.stats import t

    size = np.bincount(cells)[cells]
    x, y = x - _means(x, cells), y - _means(y, cells)
    square = float(x @ x)
    freedom = square**2 / float((x**4).sum()) - 1 if square > 1e-9 else 0.0
    if freedom < 2:
        return None
    value = float(x @ y) / square
    leverage = np.minimum(x * x / square + 1 / size, 0.99)
    error = math.sqrt(float((x * x * y * y / (1 - leverage)).sum())) / square
    if error < 1e-12:
        return None
    half = float(t.ppf(1 - 0.025 / chosen_of, freedom)) * error
    below = float(t.cdf(value / error, freedom))
    return Effect(value=value, low=value - half, high=value + half, p=2 * min(below, 1 - below), p_below=below)


def _means(values: Array, cells: Array) -> Array:
    return (np.bincount(cells, values) / np.maximum(np.bincount(cells), 1))[cells]


def significant(findings: Sequence[Finding], rate: float = RATE) -> list[Finding]:
    """Those that stand after the correction for all of them (Benjamini & Hochberg, 1995), strongest first, with q set."""
    tested = sorted((one for one in findings if one.p is not None), key=lambda one: one.p)
    q, kept = 1.0, []
    for rank in range(len(tested), 0, -1):
        one = tested[rank - 1]
        q = min(q, one.p * len(tested) / rank)
        if q <= rate:
            kept.append(replace(one, q=q))
    return [*reversed(kept), *(one for one in findings if one.p is None)]


def analyse(log: Log, asked: Sequence[Asked] = (), rate: float = RATE) -> list[Finding]:
    """All findings of a log that stand, strongest first."""
    candidates = [
        finding
        for test in (_arms, _categories, _top_k, _length, _hours, _drift, _documents, _priors)
        for finding in (test(log) if len(log.reward) >= 2 * LEAST else ())
    ]
    found = significant([*candidates, *_unsupported(asked)], rate)
    worse = {one.key.split(":")[-1] for one in found if one.key.startswith("arm:all:")}
    return [one for one in found if not (one.kind == "arm" and ":all:" not in one.key and one.key.split(":")[-1] in worse)]


def _both(log: Log) -> Array:
    return log.agent * len(log.categories) + log.category


def _sides(inside: Array) -> bool:
    return min(int(inside.sum()), int((~inside).sum())) >= LEAST


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _share(value: float) -> str:
    return "under 1 %" if value < 0.01 else f"at most {100 * value:.0f} %"


def _arms(log: Log) -> Iterator[Finding]:
    """Of those that take traffic now, among themselves."""
    competing = [index for index, agent in enumerate(log.agents) if agent in log.live and log.live[agent].takes]
    among = np.isin(log.agent, competing)
    chances = _chances(log, competing)
    for index in competing:
        agent = log.agents[index]
        for scope, category in [(None, "all"), *enumerate(log.categories)]:
            rows = among if scope is None else among & (log.category == scope)
            inside = log.agent[rows] == index
            # Worse on the whole, but perhaps the best at something: that is said of the categories, one by one.
            if not _sides(inside) or (scope is None and _chance(chances, agent, None) >= PAUSE_BELOW):
                continue
            found = effect(inside.astype(float), log.reward[rows], log.category[rows])
            if found is None:
                continue
            n, mean = int(inside.sum()), float(log.reward[rows][inside].mean())
            where = "on all questions" if scope is None else f"on {category} questions"
            yield Finding(
                key=f"arm:{category}:{agent}",
                kind="arm",
                title=f"{agent} is worse than the other agents {where}",
                detail=f"Mean reward {mean:.2f}, {_signed(found.value)} against the others on the same kind of question; "
                f"probability of being the best there {_share(_chance(chances, agent, scope))}.",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=n,
                p=found.p_below,
                action=_arm_action(log.live[agent], agent, scope, category, mean, _chance(chances, agent, scope)),
            )


def _arm_action(revision: Revision, agent: str, scope: int | None, category: str, mean: float, chance: float) -> Action | None:
    """A pause and a prior are the whole agent's, so a canary is retired or left to its guard."""
    if scope is None and chance < RETIRE_BELOW:
        values = {"agent_name": revision.agent, "revision": revision.revision}
        return Action(kind="retire", label=f"Retire {agent}", values=values)
    if revision.canary:
        return None
    if scope is None:
        return Action(kind="pause", label=f"Pause {agent}", values={"agent_name": agent})
    pulls = float(LEAST)
    values = {"category": category, "agent_name": agent, "pulls": pulls, "total": round(pulls * mean, 2)}
    return Action(kind="prior", label=f"Set its prior there to {mean:.2f}, worth {pulls:g} pulls", values=values)


def _chances(log: Log, competing: Sequence[int]) -> dict[tuple[int, str], float]:
    """(category, agent) -> probability of being the best there, of competing agents with LEAST answers, by Beta posteriors."""
    from rewards.bandit.posterior import probability_best

    chances = {}
    for category in range(len(log.categories)):
        rows = log.category == category
        counts = np.bincount(log.agent[rows], minlength=len(log.agents))
        sums = np.bincount(log.agent[rows], log.reward[rows], minlength=len(log.agents))
        enough = np.array([index for index in competing if counts[index] >= LEAST], dtype=int)
        if len(enough) > 1:
            best = probability_best(1 + sums[enough], 1 + counts[enough] - sums[enough])
            chances |= {(category, log.agents[i]): float(chance) for i, chance in zip(enough, best, strict=True)}
    return chances


def _chance(chances: dict[tuple[int, str], float], agent: str, scope: int | None) -> float:
    return max((chance for (where, who), chance in chances.items() if who == agent and scope in (None, where)), default=1.0)


def _categories(log: Log) -> Iterator[Finding]:
    for index, category in enumerate(log.categories):
        inside = log.category == index
        if _sides(inside) and (found := effect(inside.astype(float), log.reward, log.agent)):
            yield Finding(
                key=f"category:{category}",
                kind="category",
                title=f"{category.capitalize()} questions are harder than the others",
                detail=f"Mean reward {log.reward[inside].mean():.2f}, {_signed(found.value)} against the same agents' other "
                "answers.",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=int(inside.sum()),
                p=found.p_below,
                action=_collect({"category": category}, f"{category} questions"),
            )


def _collect(chosen: dict[str, Any], what: str) -> Action:
    return Action(kind="eval_set", label=f"Add the worst rated {what} to an eval set", values=chosen)


def _top_k(log: Log) -> Iterator[Finding]:
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
        if _sides(inside) and (found := effect(inside.astype(float), log.reward[rows], _both(log)[rows])):
            better, worse = (int(other), int(usual)) if found.value > 0 else (int(usual), int(other))
            present = log.top_ks.get(collection)
            values = {"collection": collection, "top_k": better}
            yield Finding(
                key=f"top_k:{collection}:{other}",
                kind="top_k",
                title=f"top_k {better} brings better answers than {worse} in {collection}",
                detail=f"top_k {other:g} against {usual:g}, within agents and categories: {_signed(found.value)}. "
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


def _length(log: Log) -> Iterator[Finding]:
    if found := effect(np.log2(np.maximum(log.words, 1)), log.reward, _both(log)):
        longer = found.value > 0
        bound = float(np.quantile(log.words, 0.25 if longer else 0.75))
        chosen = {"words_at_most" if longer else "words_at_least": bound}
        yield Finding(
            key="length",
            kind="length",
            title=f"{'Longer' if longer else 'Shorter'} questions get better answers",
            detail=f"Each doubling of a question's words goes with {_signed(found.value)}, within agents and categories.",
            estimate=found.value,
            low=found.low,
            high=found.high,
            n=len(log.reward),
            p=found.p,
            action=_collect(chosen, f"{'short' if longer else 'long'} questions"),
        )


def _hours(log: Log) -> Iterator[Finding]:
    """A daily wave: both coefficients of its first harmonic at once (Wald test with robust variance under no effect)."""
    from scipy.stats import chi2

    cells = _both(log)
    angle = log.hour * (2 * np.pi / 24)
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    waves = np.stack([column - _means(column, cells) for column in waves.T], axis=1)
    centred = log.reward - _means(log.reward, cells)
    score = waves.T @ centred
    spread = (waves * (centred**2)[:, None]).T @ waves
    if np.linalg.cond(spread) > 1e8:
        return
    p = float(chi2.sf(score @ np.linalg.solve(spread, score), 2))
    starts = np.arange(24)
    means = [centred[(log.hour - start) % 24 < 6].mean() if ((log.hour - start) % 24 < 6).any() else 0.0 for start in starts]
    worst = int(np.argmin(means))
    inside = (log.hour - worst) % 24 < 6
    # The window was chosen for its mean: the interval has to hold for whichever of them it would have been.
    if _sides(inside) and (found := effect(inside.astype(float), log.reward, cells, chosen_of=len(starts))):
        yield Finding(
            key="hours",
            kind="hours",
            title=f"Answers are rated worse between {worst}:00 and {(worst + 6) % 24}:00",
            detail=f"{_signed(found.value)} in these six hours, the worst of the day, within agents and categories. "
            "The test is of a daily wave, and the interval is wide enough for the choice among 24 windows. See whether load, "
            "other users or other questions explain it.",
            estimate=found.value,
            low=found.low,
            high=found.high,
            n=int(inside.sum()),
            p=p,
        )


def _drift(log: Log) -> Iterator[Finding]:
    """One change of the mean at an unknown time: the largest cumulated deviation (CUSUM; Page, 1954), whose limit is the
    supremum of a Brownian bridge (Kolmogorov's distribution).

    The size of the change is measured on every second answer at the place that the others choose: at the place that the same
    answers choose it would look larger than it is."""
    from scipy.special import kolmogorov

    for index, agent in enumerate(log.agents):
        rows = np.flatnonzero(log.agent == index)
        n = len(rows)
        if n < 5 * LEAST or agent not in log.live:
            continue
        centred = log.reward[rows] - _means(log.reward[rows], log.category[rows])
        spread = float(centred.std())
        sums = np.abs(np.cumsum(centred))
        if spread < 1e-9:
            continue
        change = 2 * int(np.argmax(np.abs(np.cumsum(centred[::2] - centred[::2].mean()))[:-1]))
        after = np.arange(n) > change
        judged = rows[1::2]
        later = after[1::2]
        since = {"agent_name": log.live[agent].agent, "newest": int(after.sum())}
        enough = 2 * min(int(later.sum()), int((~later).sum())) >= LEAST
        found = effect(later.astype(float), log.reward[judged], log.category[judged]) if enough else None
        if found is None:
            continue
        better = found.value > 0
        before_mean, after_mean = (log.reward[judged][part].mean() for part in (~later, later))
        yield Finding(
            key=f"drift:{agent}",
            kind="drift",
            title=f"{agent} became {'better' if better else 'worse'} after about its answer {change + 1} of {n}",
            detail=f"Mean reward {before_mean:.2f} before and {after_mean:.2f} after, on every second answer; the place was "
            "found on the others, so that the difference is not flattered. A policy that forgets follows such changes faster.",
            estimate=found.value,
            low=found.low,
            high=found.high,
            n=n,
            p=float(kolmogorov(sums.max() / (spread * math.sqrt(n)))),
            action=None if better else _collect(since, f"answers of {agent} since"),
        )


def _documents(log: Log) -> Iterator[Finding]:
    newest = slice(len(log.reward) - len(log.documents), None)
    reward, cells = log.reward[newest], _both(log)[newest]
    where: dict[str, list[int]] = defaultdict(list)
    for row, names in enumerate(log.documents):
        for name in names:
            where[name].append(row)
    for name, rows in sorted(where.items(), key=lambda one: (-len(one[1]), one[0]))[:DOCUMENTS]:
        inside = np.zeros(len(reward), bool)
        inside[rows] = True
        if _sides(inside) and (found := effect(inside.astype(float), reward, cells)):
            yield Finding(
                key=f"document:{name}",
                kind="document",
                title=f"Answers from “{name}” are rated worse",
                detail=f"Mean reward {reward[inside].mean():.2f}, {_signed(found.value)} against answers without it, within "
                "agents and categories. Read it: it may be out of date, or cut badly.",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=int(inside.sum()),
                p=found.p_below,
            )


def _priors(log: Log) -> Iterator[Finding]:
    from scipy.stats import t

    for (category, agent), (pulls, total) in log.priors.items():
        if pulls <= 0 or category not in log.categories or agent not in log.agents or agent not in log.live:
            continue
        rows = (log.category == log.categories.index(category)) & (log.agent == log.agents.index(agent))
        n, assumed = int(rows.sum()), total / pulls
        if n < LEAST:
            continue
        values = log.reward[rows]
        # Two more values at the ends of the scale keep rewards that are all alike from looking certain (Agresti & Coull, 1998).
        widened = np.concatenate([values, [0.0, 1.0]])
        error = float(widened.std(ddof=1)) / math.sqrt(len(widened))
        mean = float(values.mean())
        half = float(t.ppf(0.975, n - 1)) * error
        total_now = round(pulls * mean, 2)
        values_now = {"category": category, "agent_name": agent, "pulls": pulls, "total": total_now}
        yield Finding(
            key=f"prior:{category}:{agent}",
            kind="prior",
            title=f"The prior of {agent} on {category} questions is too {'high' if mean < assumed else 'low'}",
            detail=f"It assumes {assumed:.2f}, worth {pulls:g} pulls; {n} ratings have a mean of {mean:.2f}.",
            estimate=mean - assumed,
            low=mean - half - assumed,
            high=mean + half - assumed,
            n=n,
            p=float(2 * t.sf(abs(mean - assumed) / error, n - 1)),
            action=Action(kind="prior", label=f"Set the prior to {mean:.2f}, worth {pulls:g} pulls", values=values_now),
        )


def _unsupported(asked: Sequence[Asked]) -> Iterator[Finding]:
    """Questions without a passage that supports an answer: how many, and words that they share more often than the others."""
    from scipy.stats import fisher_exact

    missing = {row for row, one in enumerate(asked) if not one.supported}
    if not missing:
        return
    low, high = _wilson(len(missing), len(asked))
    yield Finding(
        key="unsupported",
        kind="unsupported",
        title=f"{len(missing)} of {len(asked)} questions found no passage that supports an answer",
        detail="Either nothing stood in the prompt, or the answer was that the passages do not tell.",
        estimate=len(missing) / len(asked),
        low=low,
        high=high,
        n=len(asked),
        action=_collect({"unsupported": True}, "or unrated of these questions"),
    )
    where: dict[str, set[int]] = defaultdict(set)
    for row, one in enumerate(asked):
        for word in set(content_words(one.question)):
            where[word].add(row)
    common = sorted((word for word in where if len(where[word] & missing) >= 3), key=lambda word: -len(where[word] & missing))
    for word in common[:WORDS]:
        rows = where[word]
        hits, rest = len(rows & missing), len(missing - rows)
        table = [[hits, len(rows) - hits], [rest, len(asked) - len(rows) - rest]]
        low, high = _wilson(hits, len(rows))
        examples = "; ".join(dict.fromkeys(asked[row].question[:100] for row in sorted(rows & missing)[-2:]))
        yield Finding(
            key=f"missing:{word}",
            kind="unsupported",
            title=f"Add documents on “{word}”",
            detail=f"{hits} of {len(rows)} questions with this word found no support. For example: {examples}",
            estimate=hits / len(rows),
            low=low,
            high=high,
            n=len(rows),
            p=float(fisher_exact(table, alternative="greater").pvalue),
            action=_collect({"unsupported": True, "word": word}, f"questions on {word}"),
        )


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    z = 1.959963985
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
