"""Findings: planted effects are found, named and measured; logs in which nothing matters give none."""

from __future__ import annotations

import numpy as np
import pytest

from rewards.findings import Asked, Log, Revision, analyse, effect
from rewards.findings.agents import drift
from rewards.findings.questions import hours

AGENTS, CATEGORIES = ("alpha", "beta", "gamma"), ("factual", "vague")
LIVE = {name: Revision(agent=name, revision=1, prompt_passages=3) for name in AGENTS}


def log(seed: int = 0, n: int = 900, mean=lambda rows: 0.6, **fields) -> Log:
    """Right-or-wrong rewards with the probability that `mean` gives for the other columns."""
    rng = np.random.default_rng(seed)
    rows = {
        "agent": rng.integers(len(AGENTS), size=n),
        "category": rng.integers(len(CATEGORIES), size=n),
        "top_k": rng.choice([3, 5, 10], size=n, p=[0.2, 0.6, 0.2]),
        "words": rng.integers(3, 40, size=n),
        "hour": rng.uniform(0, 24, size=n),
    }
    documents = [frozenset(f"doc {i}" for i in rng.choice(12, size=3, replace=False)) for _ in range(n)]
    rows["documents"] = np.array([sorted(one) for one in documents])
    rows["place"] = np.arange(n) / n
    reward = (rng.random(n) < np.broadcast_to(mean(rows), n)).astype(float)
    columns = {name: rows[name] for name in ("agent", "category", "top_k", "words", "hour")}
    places = {"collection": np.zeros(n, int), "collections": ("default",), "top_ks": {"default": 5}, "live": LIVE}
    return Log(reward=reward, agents=AGENTS, categories=CATEGORIES, documents=documents, **columns, **(places | fields))


def by_key(findings):
    return {one.key: one for one in findings}


def test_logs_in_which_nothing_matters_give_a_finding_no_more_often_than_they_may():
    priors = {("factual", "alpha"): (10.0, 6.0)}
    alarms = [analyse(log(seed, n=400, priors=priors)) for seed in range(200)]
    rate = np.mean([bool(found) for found in alarms])
    print(f"false findings in {rate:.1%} of 200 logs")
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(
    ("key", "mean", "sign"),
    [
        ("arm:all:gamma", lambda rows: np.where(rows["agent"] == 2, 0.35, 0.7), -1),
        ("category:vague", lambda rows: np.where(rows["category"] == 1, 0.4, 0.7), -1),
        ("top_k:default:10", lambda rows: np.where(rows["top_k"] == 10, 0.85, 0.55), 1),
        ("length", lambda rows: np.clip(0.95 - 0.12 * np.log2(rows["words"]), 0, 1), -1),
        ("hours", lambda rows: np.where(rows["hour"] < 6, 0.35, 0.7), -1),
        ("drift:beta", lambda rows: np.where((rows["agent"] == 1) & (rows["place"] > 0.6), 0.3, 0.7), -1),
        ("document:doc 7", lambda rows: np.where((rows["documents"] == "doc 7").any(axis=1), 0.4, 0.7), -1),
    ],
)
def test_a_planted_effect_is_found_with_its_sign(key, mean, sign):
    hits = [by_key(analyse(log(seed, mean=mean))).get(key) for seed in range(10)]
    assert sum(one is not None for one in hits) >= 9
    for one in filter(None, hits):
        assert np.sign(one.estimate) == sign
        assert one.low <= one.estimate <= one.high
        assert one.q <= 0.05


def test_harder_questions_do_not_make_an_agent_worse():
    """gamma gets the hard category three times as often, and is as good as the others there."""
    rng = np.random.default_rng(5)
    n = 3000
    category = rng.integers(2, size=n)
    agent = np.where(category == 1, rng.choice(3, size=n, p=[0.2, 0.2, 0.6]), rng.choice(3, size=n, p=[0.45, 0.45, 0.1]))
    base = log(0, n=n)
    reward = (rng.random(n) < np.where(category == 1, 0.3, 0.8)).astype(float)
    found = by_key(analyse(Log(**{**vars(base), "reward": reward, "agent": agent, "category": category})))
    assert "category:vague" in found
    assert not [key for key in found if key.startswith("arm:")]


def test_an_arm_that_is_worse_in_one_category_gets_a_prior_and_one_that_is_worse_everywhere_goes():
    one = by_key(analyse(log(mean=lambda rows: np.where((rows["agent"] == 0) & (rows["category"] == 1), 0.2, 0.6), n=2000)))
    assert "arm:all:alpha" not in one
    action = one["arm:vague:alpha"].action
    assert (action.kind, action.values["category"], action.values["agent_name"]) == ("prior", "vague", "alpha")
    assert action.values["total"] / action.values["pulls"] == pytest.approx(0.2, abs=0.06)
    everywhere = by_key(analyse(log(mean=lambda rows: np.where(rows["agent"] == 2, 0.2, 0.7))))
    assert everywhere["arm:all:gamma"].action.kind == "retire"
    assert everywhere["arm:all:gamma"].action.values == {"agent_name": "gamma", "revision": 1}
    assert not [key for key in everywhere if key.startswith("arm:") and key.endswith(":gamma") and ":all:" not in key]


def test_only_revisions_that_take_traffic_are_called_worse():
    """gamma's ratings are bad: of a revision that is gone, of a paused agent, of a canary that a pause would take along."""

    def found(live, name="gamma", rate=0.2):
        base = log(mean=lambda rows: np.where(rows["agent"] == 2, rate, 0.7), live=live)
        return by_key(analyse(Log(**{**vars(base), "agents": ("alpha", "beta", name)})))

    others = {name: LIVE[name] for name in ("alpha", "beta")}
    for live in (others, others | {"gamma": Revision(agent="gamma", revision=1, takes=False)}):
        assert not [key for key in found(live) if key.startswith(("arm:", "drift:"))]
    canary = {"alpha r2": Revision(agent="alpha", revision=2, canary=True)}
    action = found(others | canary, "alpha r2")["arm:all:alpha r2"].action
    assert (action.kind, action.values) == ("retire", {"agent_name": "alpha", "revision": 2})


def test_a_better_top_k_is_offered_as_the_default_and_says_what_the_agents_read():
    better = {"mean": lambda rows: np.where(rows["top_k"] == 10, 0.85, 0.55)}
    one = by_key(analyse(log(**better)))["top_k:default:10"]
    assert (one.action.kind, one.action.values) == ("top_k", {"collection": "default", "top_k": 10})
    assert "alpha 3, beta 3, gamma 3" in one.detail and "gets 5" in one.detail
    readers = {name: Revision(agent=name, revision=1, prompt_passages=20) for name in AGENTS}
    one = by_key(analyse(log(**better, live=readers, top_ks={"default": 10})))["top_k:default:10"]
    assert one.action is None and "prompt" not in one.detail


def test_intervals_of_what_was_chosen_for_its_size_hold_the_truth():
    """No hour matters, and beta changes by -0.3: the worst of 24 windows holds 0, the change at the place found its size."""
    found = [one for seed in range(120) for one in hours(log(seed, n=400))]
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.95
    changes = [
        one
        for seed in range(120)
        for one in drift(log(seed, mean=lambda rows: np.where((rows["agent"] == 1) & (rows["place"] > 0.5), 0.4, 0.7)))
        if one.key == "drift:beta"
    ]
    assert len(changes) > 80
    assert np.mean([one.low <= -0.3 <= one.high for one in changes]) >= 0.88


def test_a_prior_that_contradicts_the_ratings_is_corrected():
    priors = {("factual", "alpha"): (10.0, 1.0), ("factual", "beta"): (10.0, 6.0)}
    found = by_key(analyse(log(priors=priors)))
    assert [key for key in found if key.startswith("prior:")] == ["prior:factual:alpha"]
    values = found["prior:factual:alpha"].action.values
    assert values["pulls"] == 10.0
    assert values["total"] == pytest.approx(6.0, abs=1.0)


def test_words_of_questions_without_support_are_named():
    asked = [Asked(question=f"When does ferry {i} leave?", supported=False) for i in range(9)]
    asked += [Asked(question=f"Who keeps lighthouse {i}?", supported=i > 2) for i in range(80)]
    found = by_key(analyse(log(n=0), asked))
    assert (found["unsupported"].n, found["unsupported"].estimate) == (89, 12 / 89)
    assert found["missing:ferry"].title == "Add documents on “ferry”"
    assert "missing:lighthouse" not in found
    assert found["missing:ferry"].action.values == {"unsupported": True, "word": "ferry"}


def test_effects_agree_with_welch_and_cover_the_truth():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(1)
    x = np.repeat([0.0, 1.0], [300, 200])
    y = rng.normal(size=500) + 0.1 * x
    found = effect(x, y, np.zeros(500, int))
    assert found.p == pytest.approx(ttest_ind(y[x == 1], y[x == 0], equal_var=False).pvalue, abs=0.02)
    covered = 0
    for _ in range(400):
        cells = rng.integers(4, size=300)
        x = (rng.random(300) < 0.3).astype(float)
        y = (rng.random(300) < 0.3 + 0.1 * cells + 0.2 * x).astype(float)
        one = effect(x, y, cells)
        covered += one.low <= 0.2 <= one.high
    assert covered / 400 >= 0.93


def test_too_few_ratings_give_no_test():
    assert analyse(log(n=30, mean=lambda rows: np.where(rows["agent"] == 2, 0.0, 1.0))) == []
