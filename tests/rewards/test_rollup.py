"""The sums of the log agree with the log, whatever happens to it and however much of them is folded."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from django.utils import timezone

from rewards.models import Interaction, LogChange, LogSums, Pull, Reward, RoutingPolicy
from rewards.rollup import spans
from rewards.rollup.read import log_series, log_sums
from rewards.rollup.sums import ACCURACY, FIGURES, Sums, latency_bin, percentile
from rewards.selectors import active_policy
from rewards.services import arms_rebuild, learning_reset, log_export, log_import, policy_save
from rewards.services import rollup as writing
from tests.rewards.rows import interaction, rate, rated, variant


def from_the_log(since=None, until=None) -> dict[tuple[str, int], Sums]:
    """What the sums must be, read from the log row by row."""
    found = defaultdict(Sums)

    def inside(at):
        return (since is None or at >= since) and (until is None or at < until)

    for row in Interaction.objects.all():
        if not inside(row.created_at):
            continue
        into = found[row.category, row.variant_id]
        into.ratings += Reward.objects.filter(interaction=row).count()
        if row.mode == "compare":
            continue
        into.interactions += 1
        into.cost_usd += row.cost_usd
        into.failed += row.state == "failed"
        if row.state == "answered":
            into.latency[latency_bin(row.latency_ms)] += 1
    for pull in Pull.objects.select_related("interaction"):
        if inside(pull.at):
            into = found[pull.interaction.category, pull.interaction.variant_id]
            into.n, into.total, into.squares = into.n + 1, into.total + pull.value, into.squares + pull.value**2
    return found


def plain(sums) -> dict:
    """Comparable: rounding errors of added and subtracted floats cut off, keys with nothing left out."""
    return {
        key: values
        for key, one in sums.items()
        if any(values := (*(round(getattr(one, name), 6) + 0.0 for name in FIGURES), tuple(sorted(one.latency.items()))))
        and any(values[:-1])
    }


def agree(since=None, until=None) -> None:
    assert plain(log_sums(since, until)) == plain(from_the_log(since, until))


@pytest.fixture
def agents(db):
    return variant("alpha"), variant("beta")


def something_happens(dice: random.Random, agents, now: datetime) -> None:
    what = dice.random()
    rows = list(Interaction.objects.filter(state="answered").order_by("id").values_list("pk", flat=True))
    if what < 0.6 or not rows:
        interaction(
            dice.choice(agents),
            category=dice.choice(["factual", "vague"]),
            created_at=now - timedelta(hours=dice.uniform(0, 24 * 70)),
            mode=dice.choice(["bandit", "bandit", "manual_override", "compare"]),
            state=dice.choice(["answered", "answered", "failed"]),
            latency_ms=dice.lognormvariate(6, 1),
            cost_usd=dice.choice([0.0, 0.25]),
        )
    else:
        chosen = Interaction.objects.get(pk=dice.choice(rows))
        source = dice.choice(["user", "judge"])
        rate(chosen, dice.choice([0.0, 0.3, 1.0]), rater=dice.choice(["ann", "bob"]), source=source)


@pytest.mark.parametrize("seed", range(3))
def test_sums_follow_everything_that_happens(agents, seed, monkeypatch):
    monkeypatch.setattr(writing, "FOLD_EVERY", 7)
    dice, now = random.Random(seed), timezone.now()
    for step in range(120):
        something_happens(dice, agents, now)
        if step == 50:
            learning_reset()
        if step == 70:
            policy = active_policy()
            policy.learn_since = None
            RoutingPolicy.objects.filter(pk=policy.pk).update(learn_since=None)
            policy.judges_count = True
            policy_save(policy)
    assert LogSums.objects.exists()
    agree()
    for hours in (3, 30, 24 * 20, 24 * 65):
        agree(since=spans.start_of("h", now - timedelta(hours=hours)))
        agree(until=spans.start_of("h", now - timedelta(hours=hours)))
    agree(spans.start_of("h", now - timedelta(days=50)), spans.start_of("h", now - timedelta(days=3)))
    before = plain(log_sums())
    arms_rebuild()
    assert not LogChange.objects.exists()
    assert plain(log_sums()) == before


def test_folding_changes_no_figure_and_leaves_nothing_waiting(agents):
    for value in (0.0, 0.5, 1.0):
        rated(agents[0], value, latency_ms=120)
    before = plain(log_sums())
    waiting = LogChange.objects.count()
    assert waiting == 6
    assert writing.changes_fold() == waiting
    assert not LogChange.objects.exists()
    assert plain(log_sums()) == before
    assert writing.changes_fold() == 0


def test_every_thousandth_change_folds_those_that_wait(agents, monkeypatch):
    monkeypatch.setattr(writing, "FOLD_EVERY", 5)
    for _ in range(20):
        interaction(agents[0])
    assert LogChange.objects.count() < 5
    assert log_sums()["factual", agents[0].pk].interactions == 20


def test_an_import_is_summed_and_the_same_again_adds_nothing(agents, tmp_path):
    for value in (0.2, 0.9):
        rated(agents[0], value, created_at=timezone.now() - timedelta(days=40))
    before = plain(log_sums())
    with (tmp_path / "log.jsonl").open("w") as handle:
        log_export(handle)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    log_import(lines)
    assert plain(log_sums()) == before
    Interaction.objects.all().delete()
    arms_rebuild()
    assert plain(log_sums()) == {}
    log_import(lines)
    assert plain(log_sums()) == before
    agree()


def test_series_are_the_sums_of_their_periods(agents):
    now = timezone.now()
    dice = random.Random(1)
    for _ in range(80):
        something_happens(dice, agents, now)
    writing.changes_fold()
    interaction(agents[1], created_at=now - timedelta(hours=5))
    starts = [spans.start_of("d", now) - timedelta(days=back) for back in range(69, -1, -1)]
    series = log_series(starts)
    for start, end, period in zip(starts, [*starts[1:], None], series, strict=True):
        expected: dict[int, Counter] = defaultdict(Counter)
        for (_, agent), sums in log_sums(start, end).items():
            expected[agent] += Counter({name: getattr(sums, name) for name in FIGURES})
        got = {agent: Counter({name: getattr(sums, name) for name in FIGURES}) for agent, sums in period.items()}
        assert {agent: +counts for agent, counts in got.items()} == {
            agent: pytest.approx(+counts) for agent, counts in expected.items()
        }


@pytest.mark.parametrize("seed", range(20))
def test_spans_fill_a_period_without_gap_or_overlap(seed):
    dice = random.Random(seed)
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=dice.randint(0, 3000))
    end = begin + timedelta(hours=dice.choice([0, 1, 5, 30, 800, 3000, 9000]))
    parts = sorted(spans.ranges(begin, end), key=lambda part: part.low)
    edges = [begin, *(part.high for part in parts)]
    assert [part.low for part in parts] == edges[:-1]
    assert edges[-1] == end
    for part in parts:
        assert part.low < part.high
        assert spans.start_of(part.span, part.low) == part.low
        assert spans.start_of(part.span, part.high) == part.high
    assert len(parts) <= 5


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 1.0])
def test_percentiles_are_within_their_accuracy(share):
    values = np.random.default_rng(0).lognormal(6, 2, 5000)
    exact = np.percentile(values, share * 100, method="inverted_cdf")
    assert percentile(Counter(map(latency_bin, values)), share) == pytest.approx(exact, rel=ACCURACY * 1.001)
    assert percentile(Counter(), share) is None
