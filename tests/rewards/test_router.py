from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rewards.bandit import POLICIES, ArmEvidence, HierarchicalThompson
from rewards.errors import InfeasibleShares, NoCandidates
from rewards.models import BanditArm, RoutingPolicy
from rewards.router import BanditRouter, drawn_again
from rewards.selectors import active_policy
from rewards.services import policy_activate, policy_save, prior_set
from tests.rewards.rows import rated, variant

pytestmark = pytest.mark.django_db


def learned(agent, pulls, total, category="factual"):
    weighted = {"weight": pulls, "weighted_total": total, "weighted_squares": total}
    BanditArm.objects.create(category=category, variant=agent, pulls=pulls, total=total, **weighted)


def means(decision):
    return {row["agent"]: (row["pulls"], row["mean"]) for row in decision.candidates}


def test_a_decision_takes_one_query(django_assert_num_queries):
    agents = [variant(name) for name in ("alpha", "beta", "gamma")]
    active_policy()
    with django_assert_num_queries(1):
        decision = BanditRouter().route("factual", agents)
    assert decision.variant in agents


def test_a_fresh_site_routes_by_the_default_policy_with_equal_shares():
    decision = BanditRouter().route("factual", [variant("alpha"), variant("beta")])
    assert (decision.policy, decision.policy_revision) == ("hierarchical_thompson", 1)
    assert [row["probability"] for row in decision.candidates] == pytest.approx([0.5, 0.5])
    assert RoutingPolicy.objects.get(active=True).kind == "hierarchical_thompson"


def test_the_logged_propensity_is_exactly_the_probability_that_was_drawn_from():
    alpha, beta = variant("alpha"), variant("beta")
    learned(alpha, 9, 7)
    learned(beta, 12, 5)
    decisions = [BanditRouter().route("factual", [alpha, beta]) for _ in range(20)]
    for decision in decisions:
        chosen = drawn_again(decision.candidates, decision.seed)
        assert decision.candidates[chosen]["variant_id"] == decision.variant.pk
        assert decision.candidates[chosen]["probability"] == decision.propensity
        assert sum(row["probability"] for row in decision.candidates) == pytest.approx(1, abs=1e-12)
    assert len({decision.seed for decision in decisions}) == 20


def test_a_seed_repeats_the_choice():
    agents = [variant(name) for name in ("alpha", "beta", "gamma")]
    assert len({BanditRouter().route("factual", agents, seed=7).variant.pk for _ in range(5)}) == 1


def test_arms_are_drawn_as_often_as_their_probability_says():
    alpha, beta = variant("alpha"), variant("beta")
    learned(alpha, 8, 6)
    learned(beta, 8, 4)
    decisions = [BanditRouter().route("factual", [alpha, beta], seed=seed) for seed in range(600)]
    expected = decisions[0].candidates[0]["probability"]
    share = Counter(decision.variant.name for decision in decisions)["alpha"] / 600
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 600) ** 0.5)


def test_feedback_moves_the_next_decision_in_its_category_only():
    alpha, beta = variant("alpha"), variant("beta")
    for _ in range(5):
        rated(alpha, 1.0, category="factual")
    assert means(BanditRouter().route("factual", [alpha, beta])) == {"alpha": (5, 1.0), "beta": (0, None)}
    assert means(BanditRouter().route("vague", [alpha, beta])) == {"alpha": (0, None), "beta": (0, None)}


def test_probabilities_that_were_kept_change_with_the_evidence_and_with_the_policy():
    alpha, beta = variant("alpha"), variant("beta")

    def alphas_share():
        return BanditRouter().route("factual", [alpha, beta]).candidates[0]["probability"]

    before = alphas_share()
    assert alphas_share() == before
    for _ in range(5):
        rated(alpha, 1.0)
    after = alphas_share()
    assert after > before
    policy = active_policy()
    policy.parameters = {"exploration": 2.0}
    policy_save(policy)
    assert before < alphas_share() < after


def test_priors_count_as_evidence_at_once():
    alpha, beta = variant("alpha"), variant("beta")
    prior_set(category="factual", agent_name="beta", pulls=30, total=27)
    learned(beta, 10, 1)
    decision = BanditRouter().route("factual", [alpha, beta])
    assert means(decision)["beta"] == (40, 0.7)
    given = {"pulls": [0, 10], "totals": [0, 1], "squares": [0, 1]}
    expected = HierarchicalThompson().probabilities(
        ArmEvidence(**given, prior_pulls=[0, 30], prior_totals=[0, 27]), np.random.default_rng(0)
    )
    assert [row["probability"] for row in decision.candidates] == pytest.approx(list(expected), abs=1e-9)


def test_a_revision_inherits_its_share_down_the_line_and_the_prior_once():
    first = variant("alpha")
    second = variant("alpha", revision=2, predecessor=first, inherit=0.5)
    third = variant("alpha", revision=3, predecessor=second, inherit=0.4)
    learned(first, 100, 80)
    learned(second, 10, 5)
    learned(third, 2, 2)
    prior_set(category="factual", agent_name="alpha", pulls=1, total=0.5)
    candidate = BanditRouter().route("factual", [third]).candidates[0]
    assert candidate["pulls"] == pytest.approx(2 + 0.4 * (10 + 0.5 * 100) + 1)
    assert candidate["mean"] == pytest.approx((2 + 0.4 * (5 + 0.5 * 80) + 0.5) / 27)


def test_every_agent_keeps_the_minimum_share():
    agents = [variant(name) for name in ("alpha", "beta", "gamma")]
    learned(agents[0], 500, 450)
    learned(agents[1], 500, 50)
    learned(agents[2], 500, 50)
    policy = active_policy()
    policy.min_share = 0.1
    policy_save(policy)
    decision = BanditRouter().route("factual", agents)
    assert [row["probability"] for row in decision.candidates] == pytest.approx([0.8, 0.1, 0.1])
    assert decision.policy_revision == 2


def test_shares_that_no_vector_satisfies_are_refused_with_the_remedy():
    policy = active_policy()
    policy.min_share = 0.4
    policy_save(policy)
    with pytest.raises(InfeasibleShares, match=r"at most 0\.3333"):
        BanditRouter().route("factual", [variant(name) for name in ("alpha", "beta", "gamma")])


def test_without_candidates_the_error_says_what_to_do():
    with pytest.raises(NoCandidates, match="Enable one"):
        BanditRouter().route("factual", [])


@pytest.mark.parametrize("kind", list(POLICIES))
@pytest.mark.usefixtures("embedded_by_hash")
def test_each_policy_routes_once_it_is_active(kind):
    policy_activate(policy_save(RoutingPolicy(name=f"my {kind}", kind=kind)))
    alpha, beta = variant("alpha"), variant("beta")
    for i in range(40):
        rated(alpha, float(i % 10 > 0), question=f"Why {i}?")
        rated(beta, float(i % 10 == 0), question=f"Why {i}?")
    decision = BanditRouter().route("factual", [alpha, beta], question="Why 41?")
    assert decision.policy == f"my {kind}"
    assert decision.candidates[0]["probability"] > 0.9


def test_rounding_left_by_subtracted_rewards_does_not_stop_routing():
    alpha = variant("alpha")
    learned(alpha, 1, -1e-7)
    learned(beta := variant("beta"), 1, 1 + 1e-7)
    assert means(BanditRouter().route("factual", [alpha, beta])) == {"alpha": (1, 0.0), "beta": (1, 1.0)}


def test_the_model_offers_exactly_the_policies_that_exist():
    assert set(RoutingPolicy.Kind.values) == set(POLICIES)
