"""Findings on questions: which are hard, when they are answered worse, and which nothing supports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from agents.classifier import content_words
from rewards.findings.base import Asked, Finding, Log, both, collect, sides, signed
from rewards.findings.effects import cell_means, effect, wilson

WORDS = 50  # those most often met are tested; each test costs the others power


def categories(log: Log) -> Iterator[Finding]:
    for index, category in enumerate(log.categories):
        inside = log.category == index
        if sides(inside) and (found := effect(inside.astype(float), log.reward, log.agent)):
            yield Finding(
                key=f"category:{category}",
                kind="category",
                title=f"{category.capitalize()} questions are harder than the others",
                detail=f"Mean reward {log.reward[inside].mean():.2f}, {signed(found.value)} against the same agents' other "
                "answers.",
                estimate=found.value,
                low=found.low,
                high=found.high,
                n=int(inside.sum()),
                p=found.p_below,
                action=collect({"category": category}, f"{category} questions"),
            )


def length(log: Log) -> Iterator[Finding]:
    if found := effect(np.log2(np.maximum(log.words, 1)), log.reward, both(log)):
        longer = found.value > 0
        bound = float(np.quantile(log.words, 0.25 if longer else 0.75))
        chosen = {"words_at_most" if longer else "words_at_least": bound}
        yield Finding(
            key="length",
            kind="length",
            title=f"{'Longer' if longer else 'Shorter'} questions get better answers",
            detail=f"Each doubling of a question's words goes with {signed(found.value)}, within agents and categories.",
            estimate=found.value,
            low=found.low,
            high=found.high,
            n=len(log.reward),
            p=found.p,
            action=collect(chosen, f"{'short' if longer else 'long'} questions"),
        )


def hours(log: Log) -> Iterator[Finding]:
    """A daily wave: both coefficients of its first harmonic at once (Wald test with robust variance under no effect)."""
    from scipy.stats import chi2

    cells = both(log)
    angle = log.hour * (2 * np.pi / 24)
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    waves = np.stack([column - cell_means(column, cells) for column in waves.T], axis=1)
    centred = log.reward - cell_means(log.reward, cells)
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
    if sides(inside) and (found := effect(inside.astype(float), log.reward, cells, chosen_of=len(starts))):
        yield Finding(
            key="hours",
            kind="hours",
            title=f"Answers are rated worse between {worst}:00 and {(worst + 6) % 24}:00",
            detail=f"{signed(found.value)} in these six hours, the worst of the day, within agents and categories. "
            "The test is of a daily wave, and the interval is wide enough for the choice among 24 windows. See whether load, "
            "other users or other questions explain it.",
            estimate=found.value,
            low=found.low,
            high=found.high,
            n=int(inside.sum()),
            p=p,
        )


def unsupported(asked: Sequence[Asked]) -> Iterator[Finding]:
    """Questions without a passage that supports an answer: how many, and words that they share more often than the others."""
    from scipy.stats import fisher_exact

    missing = {row for row, one in enumerate(asked) if not one.supported}
    if not missing:
        return
    low, high = wilson(len(missing), len(asked))
    yield Finding(
        key="unsupported",
        kind="unsupported",
        title=f"{len(missing)} of {len(asked)} questions found no passage that supports an answer",
        detail="Either nothing stood in the prompt, or the answer was that the passages do not tell.",
        estimate=len(missing) / len(asked),
        low=low,
        high=high,
        n=len(asked),
        action=collect({"unsupported": True}, "or unrated of these questions"),
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
        low, high = wilson(hits, len(rows))
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
            action=collect({"unsupported": True, "word": word}, f"questions on {word}"),
        )
