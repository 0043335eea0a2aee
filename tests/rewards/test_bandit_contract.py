"""One contract for every policy: what the router, the log and off-policy evaluation rely on."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import rewards.bandit
from rewards.bandit import POLICIES, ArmEvidence, draw

CONTEXT = np.array([1.0, 0.5, -1.0])
PARAMETERS = {kind: {"dimensions": 2} if kind.endswith("lints") else {} for kind in POLICIES}
policies = pytest.mark.parametrize(
    "policy", [cls.from_parameters(PARAMETERS[kind]) for kind, cls in POLICIES.items()], ids=list(POLICIES)
)


def evidence(pulls, means, **more) -> ArmEvidence:
    """The same rewards for every policy: linear ones get them for questions that all look like CONTEXT."""
    pulls = np.asarray(pulls, dtype=float)
    totals = pulls * np.asarray(means)
    designs = pulls[..., None, None] * np.outer(CONTEXT, CONTEXT)
    linear = {"context": CONTEXT, "designs": designs, "responses": totals[..., None] * CONTEXT}
    return ArmEvidence(pulls=pulls, totals=totals, **linear, **more)


def some_evidence(rng: np.random.Generator, arms: int, magnitude: float) -> ArmEvidence:
    pulls, elsewhere = np.floor(10 ** rng.uniform(0, magnitude, arms)), np.floor(10 ** rng.uniform(0, magnitude, (4, arms)))
    priors = np.floor(rng.uniform(0, 3, arms))
    means, means_elsewhere = rng.uniform(size=arms), rng.uniform(size=(4, arms))
    return evidence(
        pulls,
        means,
        squares=pulls * means * rng.uniform(means, 1),
        prior_pulls=priors,
        prior_totals=priors * rng.uniform(size=arms),
        elsewhere_pulls=elsewhere,
        elsewhere_totals=elsewhere * means_elsewhere,
        elsewhere_squares=elsewhere * means_elsewhere * rng.uniform(means_elsewhere, 1),
    )


def take(of: ArmEvidence, order) -> ArmEvidence:
    fields = {spec.name: getattr(of, spec.name) for spec in dataclasses.fields(of)}
    by_arm = {name: values[..., order] for name, values in fields.items() if name not in ("context", "designs", "responses")}
    return ArmEvidence(context=of.context, designs=of.designs[order], responses=of.responses[order], **by_arm)


@policies
@pytest.mark.parametrize("arms", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("magnitude", [0.5, 2, 5, 7])
def test_probabilities_are_a_distribution(policy, arms, magnitude):
    rng = np.random.default_rng(arms)
    for _ in range(5):
        probabilities = policy.probabilities(some_evidence(rng, arms, magnitude), rng)
        assert probabilities.shape == (arms,)
        assert (probabilities >= 0).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


@policies
def test_no_evidence_is_uniform(policy):
    probabilities = policy.probabilities(evidence(np.zeros(6), np.zeros(6)), np.random.default_rng(0))
    assert probabilities == pytest.approx(np.full(6, 1 / 6))


@policies
def test_a_single_arm_is_certain(policy):
    for pulls in (0, 3, 1e6):
        one = evidence([pulls], [0.2])
        assert policy.probabilities(one, np.random.default_rng(0)) == pytest.approx([1.0])
        assert policy.choose(one, np.random.default_rng(0)) == 0


@policies
def test_arms_have_no_order(policy):
    rng = np.random.default_rng(3)
    for magnitude in (0.5, 2, 5):
        given = some_evidence(rng, 6, magnitude)
        order = rng.permutation(6)
        straight = policy.probabilities(given, np.random.default_rng(1))
        assert policy.probabilities(take(given, order), np.random.default_rng(1)) == pytest.approx(straight[order], abs=1e-9)


@policies
def test_same_seed_same_arms(policy):
    rng = np.random.default_rng(4)
    given = some_evidence(rng, 5, 1)
    runs = [
        [(draw(policy.probabilities(given, rng), rng), int(policy.choose(given, rng))) for _ in range(50)]
        for rng in (np.random.default_rng(9), np.random.default_rng(9))
    ]
    assert runs[0] == runs[1]


@policies
def test_more_reward_is_not_less_probability(policy):
    pulls = np.array([12.0, 30.0, 8.0])
    before = -1.0
    for mean in np.linspace(0, 1, 21):
        now = policy.probabilities(evidence(pulls, [mean, 0.6, 0.4]), np.random.default_rng(0))[0]
        assert now >= before - 1e-9
        before = now
    assert before > 0.5


@policies
def test_the_better_of_two_well_known_arms_gets_nearly_all(policy):
    probabilities = policy.probabilities(evidence([1e6, 1e6], [0.70, 0.69]), np.random.default_rng(0))
    assert probabilities[0] >= 0.95


@policies
def test_chosen_arms_have_the_stated_probabilities(policy):
    # A share lies within 4.5 standard errors of its probability, or the two disagree.
    pulls, means, draws = np.array([14, 9, 11, 2]), [0.6, 0.55, 0.3, 0.5], 20_000
    rng = np.random.default_rng(11)
    probabilities = policy.probabilities(evidence(pulls, means), rng)
    shares = np.bincount(policy.choose(evidence(np.tile(pulls, (draws, 1)), means), rng), minlength=4) / draws
    assert (np.abs(shares - probabilities) <= 4.5 * np.sqrt(probabilities * (1 - probabilities) / draws) + 1e-12).all()


@policies
def test_leading_axes_are_independent_problems(policy):
    stacked = evidence(np.tile([1e6, 1e6], (5, 1)), [[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 2)
    rng = np.random.default_rng(0)
    chosen = np.array([policy.choose(stacked, rng) for _ in range(40)])
    assert chosen.shape == (40, 5)
    assert (chosen == [0, 0, 0, 1, 1]).mean() > 0.9


@policies
def test_describe_names_kind_and_parameters(policy):
    assert policy.kind in policy.describe()


@pytest.mark.parametrize("kind", POLICIES)
def test_unknown_parameters_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"{kind} has no parameter 'temperature'"):
        POLICIES[kind].from_parameters({"temperature": 1})


@pytest.mark.parametrize("value", ["0.5", None, True, float("nan"), float("inf"), -0.1, 1.5, [1]])
def test_parameters_out_of_range_are_refused_with_their_value(value):
    with pytest.raises(ValueError, match=r"epsilon_greedy: epsilon=.* must be a number from 0 to 1"):
        POLICIES["epsilon_greedy"].from_parameters({"epsilon": value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pulls": [], "totals": []}, "at least one arm"),
        ({"pulls": [1, 2], "totals": [1]}, "do not fit"),
        ({"pulls": [1], "totals": [2]}, "between 0 and pulls"),
        ({"pulls": [-1], "totals": [-1]}, "between 0 and pulls"),
        ({"pulls": [float("nan")], "totals": [0]}, "between 0 and pulls"),
        ({"pulls": [float("inf")], "totals": [0]}, "between 0 and pulls"),
        ({"pulls": [1], "totals": [1], "prior_pulls": [1]}, "come together"),
        ({"pulls": [1], "totals": [1], "prior_pulls": [1], "prior_totals": [3]}, "prior_totals"),
        ({"pulls": [1], "totals": [1], "elsewhere_pulls": [1], "elsewhere_totals": [1]}, "elsewhere_pulls"),
    ],
)
def test_evidence_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ArmEvidence(**fields)


@pytest.mark.parametrize("name", [name for _, name, _ in pkgutil.iter_modules(rewards.bandit.__path__)])
def test_examples_in_docstrings_hold(name):
    failed, _ = doctest.testmod(importlib.import_module(f"rewards.bandit.{name}"))
    assert not failed


def test_importing_policies_loads_numpy_and_no_more():
    code = "import sys, rewards.bandit; print(sorted({'scipy', 'django', 'torch', 'agents', 'evals'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
