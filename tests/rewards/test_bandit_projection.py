"""Shares that an operator sets, as a projection of the probability vector; drawing from the result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from rewards.bandit import draw, project


def test_a_vector_within_its_bounds_stays_as_it_is():
    assert project([0.5, 0.3, 0.2], np.full(3, 0.1), np.ones(3), 0).tolist() == [0.5, 0.3, 0.2]


def test_a_floor_is_paid_for_equally_by_the_arms_above_theirs():
    assert project([0.7, 0.3, 0.0], np.full(3, 0.02), np.ones(3), 0) == pytest.approx([0.69, 0.29, 0.02])
    assert project([1.0, 0.0, 0.0], np.full(3, 0.02), np.ones(3), 0) == pytest.approx([0.96, 0.02, 0.02])


def test_what_a_cap_leaves_over_goes_to_the_incumbent():
    assert project([0.2, 0.2, 0.6], np.zeros(3), [1, 1, 0.05], 1) == pytest.approx([0.2, 0.75, 0.05])


def test_what_the_incumbent_may_not_take_goes_to_the_others():
    assert project([0.2, 0.2, 0.6], np.zeros(3), [1, 0.4, 0.05], 1) == pytest.approx([0.55, 0.4, 0.05])


def test_equal_bounds_pin_an_arm():
    assert project([0.9, 0.1], [0, 1], [0, 1], 0).tolist() == [0, 1]


def test_projection_is_the_nearest_vector_within_bounds():
    rng = np.random.default_rng(2)
    for _ in range(30):
        arms = int(rng.integers(2, 7))
        wanted = rng.dirichlet(np.full(arms, 0.3))
        floors = rng.uniform(0, 0.9 / arms, arms)
        ours = project(wanted, floors, np.ones(arms), 0)
        best = minimize(
            lambda x, wanted=wanted: ((x - wanted) ** 2).sum(), np.full(arms, 1 / arms), bounds=[(f, 1) for f in floors],
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1}, method="SLSQP", options={"ftol": 1e-14},
        )  # fmt: skip
        assert ours == pytest.approx(best.x, abs=1e-5)


def test_every_feasible_bound_is_kept():
    rng = np.random.default_rng(3)
    for _ in range(500):
        arms = int(rng.integers(1, 12))
        inside = rng.dirichlet(np.ones(arms))  # bounds around a probability vector are feasible
        floors, caps = inside * rng.uniform(size=arms), np.minimum(inside + rng.uniform(0, 0.3, arms), 1)
        result = project(rng.dirichlet(np.full(arms, 0.1)), floors, caps, int(rng.integers(arms)))
        assert result.sum() == pytest.approx(1, abs=1e-12)
        assert (result >= floors - 1e-12).all() and (result <= caps + 1e-12).all()


@pytest.mark.parametrize(
    ("floors", "caps", "message"),
    [
        ([0.6, 0.6], [1, 1], "minimum shares sum to 1.2, more than 1"),
        ([0, 0], [0.5, 0.4], "maximum shares sum to 0.9, less than 1"),
        ([0.5, 0], [0.4, 1], "minimum <= maximum"),
        ([-0.1, 0], [1, 1], "minimum <= maximum"),
        ([0, 0], [1.1, 1], "minimum <= maximum"),
        ([float("nan"), 0], [1, 1], "minimum <= maximum"),
    ],
)
def test_infeasible_bounds_are_refused_with_their_values(floors, caps, message):
    with pytest.raises(ValueError, match=message):
        project([0.5, 0.5], floors, caps, 0)


def test_an_incumbent_that_is_no_arm_is_refused():
    with pytest.raises(ValueError, match="incumbent 2 is not one of 2 arms"):
        project([0.5, 0.5], [0, 0], [1, 1], 2)


def test_draw_follows_the_probabilities_and_never_takes_an_impossible_arm():
    rng = np.random.default_rng(0)
    counts = np.bincount([draw([0.0, 0.7, 0.0, 0.3, 0.0], rng) for _ in range(10_000)], minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert counts[1] == pytest.approx(7000, abs=200)


def test_draw_survives_a_random_number_that_rounds_up():
    class Edge:
        def random(self):
            return 1.0

    assert draw([0.5, 0.5, 0.0], Edge()) == 1


@pytest.mark.parametrize("vector", [[], [0.5, 0.4], [1.1, -0.1], [float("nan"), 1]])
def test_draw_refuses_what_is_no_distribution(vector):
    with pytest.raises(ValueError, match="not a probability vector"):
        draw(vector, np.random.default_rng(0))
