"""What operators lay down: shares, pauses, pins and sessions; and the history of it."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.orchestrator import QueryRequest, query
from agents.models import AgentVariant
from agents.selectors import live_variants
from agents.services import (
    agent_register,
    agent_set_enabled,
    agent_set_state,
    collection_get_or_create,
    document_add,
)
from rewards.bandit import POLICIES, divided_caps, project, traffic_bounds
from rewards.checks import check_policy
from rewards.errors import InfeasibleShares, NoCandidates, PinnedUnavailable
from rewards.models import AgentLimit, BanditArm, CategoryPin, Interaction, RoutingPolicy
from rewards.router import BanditRouter, drawn_again
from rewards.selectors import active_policy, change_markers
from rewards.services import (
    agent_limit_remove,
    agent_limit_set,
    agent_pause,
    category_pin,
    learning_reset,
    policy_activate,
    policy_save,
    prior_set,
)
from tests.rewards.rows import interaction, rate, rated, variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def agents():
    return [variant(name) for name in ("alpha", "beta", "gamma")]


@pytest.fixture
def olga():
    return get_user_model().objects.create_user("olga")


def shares(agents, **options):
    return {row["agent"]: row["probability"] for row in BanditRouter().route("factual", agents, **options).candidates}


def well_rated(agent, reward=1.0, n=30):
    for _ in range(n):
        rated(agent, reward)


SHARE = st.one_of(st.none(), st.floats(0, 1))


@given(
    floor=st.floats(0, 0.5),
    bounds=st.lists(st.tuples(SHARE, SHARE), min_size=2, max_size=5),
    wanted=st.lists(st.floats(0.01, 1), min_size=5, max_size=5),
)
def test_arms_that_share_a_cap_keep_to_it_and_relaxed_bounds_are_always_feasible(floor, bounds, wanted):
    cap = bounds[0][1]
    bounds[1] = (bounds[1][0], min((high for high in (cap, bounds[1][1]) if high is not None), default=None))
    wanted = np.array(wanted[: len(bounds)]) / sum(wanted[: len(bounds)])
    for relax in (False, True):
        try:
            floors, caps = traffic_bounds(floor, bounds, [[0, 1]], relax=relax)
        except ValueError:
            assert not relax
            continue
        found = project(wanted, floors, divided_caps(wanted, floors, caps, [[0, 1]]), 0)
        assert found.sum() == pytest.approx(1)
        if not relax and cap is not None:
            assert found[:2].sum() <= cap + 1e-6


@given(floor=st.floats(0, 0.5), bounds=st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=5))
def test_bounds_are_kept_or_refused(floor, bounds):
    try:
        floors, caps = traffic_bounds(floor, bounds)
    except ValueError:
        lows = [min(floor if low is None else low, 1 if high is None else high) for low, high in bounds]
        highs = [1 if high is None else high for _, high in bounds]
        assert sum(lows) > 1 or sum(highs) < 1
    else:
        assert (floors <= caps).all() and floors.sum() <= 1 + 1e-6 and caps.sum() >= 1 - 1e-6


class TestShares:
    def test_an_agent_keeps_its_own_least_and_largest_share(self, agents):
        well_rated(agents[0])
        agent_limit_set(agent_name="alpha", max_share=0.5)
        agent_limit_set(agent_name="gamma", min_share=0.2)
        found = shares(agents)
        assert 0.4 < found["alpha"] <= 0.5
        assert found["gamma"] >= 0.2 and sum(found.values()) == pytest.approx(1)
        agent_limit_remove("alpha")
        assert shares(agents)["alpha"] > 0.7
        assert not AgentLimit.objects.filter(agent_name="alpha").exists()

    def test_what_a_cap_leaves_goes_to_the_best_agent_without_one(self, agents):
        well_rated(agents[0])
        well_rated(agents[1], 0.8)
        well_rated(agents[2], 0.2)
        agent_limit_set(agent_name="alpha", max_share=0.1)
        found = shares(agents)
        assert found == pytest.approx({"alpha": 0.1, "beta": 0.88, "gamma": 0.02}, abs=0.02)

    @pytest.mark.parametrize(
        ("limits", "says"),
        [
            ({"alpha": {"min_share": 0.6, "max_share": 0.5}}, "more than the largest"),
            ({"alpha": {"min_share": 0.6}, "beta": {"min_share": 0.5}}, "least share"),
            ({name: {"max_share": 0.3} for name in ("alpha", "beta", "gamma")}, "to nobody"),
            ({name: {"paused": True} for name in ("alpha", "beta", "gamma")}, "paused"),
            ({"alpha": {"max_share": 1.5}}, "max_share"),
            ({"alpha": {"max_share": float("nan")}}, "nan"),
        ],
    )
    def test_bounds_that_cannot_be_kept_are_refused_and_nothing_changes(self, agents, limits, says):
        *fine, last = limits.items()
        for name, limit in fine:
            agent_limit_set(agent_name=name, **limit)
        with pytest.raises(InvalidInput, match=says):
            agent_limit_set(agent_name=last[0], **last[1])
        assert AgentLimit.objects.count() == len(fine)
        assert BanditRouter().route("factual", agents)

    def test_a_policy_whose_floor_does_not_fit_is_refused(self, agents):
        agent_limit_set(agent_name="alpha", min_share=0.6)
        policy = active_policy()
        policy.min_share = 0.25
        with pytest.raises(InvalidInput, match="least share"):
            policy_save(policy)
        waiting = policy_save(RoutingPolicy(name="waiting", min_share=0.25))
        with pytest.raises(InvalidInput, match="least share"):
            policy_activate(waiting)
        assert active_policy().min_share == 0.02

    def test_candidates_that_a_caller_narrows_to_capped_ones_are_refused(self, agents):
        agent_limit_set(agent_name="alpha", max_share=0.3)
        with pytest.raises(InfeasibleShares, match="to nobody"):
            BanditRouter().route("factual", agents[:1])

    def test_checks_name_limits_and_pins_that_no_longer_fit(self, agents):
        agent_limit_set(agent_name="alpha", max_share=0.3)
        category_pin(category="vague", agent_name="beta")
        assert check_policy(databases=["default"]) == []
        for agent in agents[1:]:
            agent.enabled = False
            agent.save()
        assert {message.id for message in check_policy(databases=["default"])} == {"rewards.W001", "rewards.W002"}

    def test_a_site_where_no_agent_takes_questions_is_told(self):
        assert check_policy(databases=["default"]) == []
        alpha, _ = variant("alpha"), variant("beta")
        agent_pause("beta")
        assert check_policy(databases=["default"]) == []
        AgentVariant.objects.filter(pk=alpha.pk).update(enabled=False)
        assert [message.id for message in check_policy(databases=["default"])] == ["rewards.W003"]


class TestChangesOfWhoAnswers:
    """A limit that fits the agents of today must not stop all questions when others answer tomorrow."""

    @pytest.fixture
    def quarters(self):
        agents = [variant(name) for name in ("alpha", "beta", "gamma", "delta")]
        policy = active_policy()
        policy.min_share = 0.25
        policy_save(policy)
        return agents

    def test_a_fifth_agent_where_four_have_a_quarter_each_is_refused_with_the_remedy(self, quarters):
        with pytest.raises(Conflict, match=r"minimum share to at most 0\.2000"):
            agent_register(name="fifth", strategy="naive_rag")
        assert not AgentVariant.objects.filter(name="fifth").exists()
        fifth = agent_register(name="fifth", strategy="naive_rag", enabled=False)
        with pytest.raises(Conflict, match=r"at most 0\.2000"):
            agent_set_enabled(fifth, True)
        candidate = agent_register(name="sixth", strategy="naive_rag", state="candidate")
        with pytest.raises(Conflict, match=r"at most 0\.2000"):
            agent_set_state(candidate, "active")
        assert set(AgentVariant.objects.filter(name__in=["fifth", "sixth"]).values_list("enabled", "state")) == {
            (False, "active"),
            (True, "candidate"),
        }
        assert len(shares(live_variants())) == 4

    @pytest.mark.parametrize("change", [agent_set_enabled, agent_set_state], ids=["disabled", "retired"])
    def test_the_last_agent_without_a_cap_stays(self, agents, change):
        for name in ("alpha", "beta"):
            agent_limit_set(agent_name=name, max_share=0.3)
        with pytest.raises(Conflict, match="enable an agent without one"):
            change(agents[2], {agent_set_enabled: False, agent_set_state: "retired"}[change])
        assert AgentVariant.objects.get(pk=agents[2].pk) in live_variants()
        agent_limit_remove("alpha")
        change(AgentVariant.objects.get(pk=agents[2].pk), {agent_set_enabled: False, agent_set_state: "retired"}[change])
        assert len(live_variants()) == 2

    def test_questions_are_answered_while_the_agent_without_a_cap_waits_for_its_index(self, agents, caplog):
        agent_limit_set(agent_name="alpha", max_share=0.2)
        agent_limit_set(agent_name="beta", max_share=0.3)
        assert shares(agents[:2], relax=True) == pytest.approx({"alpha": 0.4, "beta": 0.6})
        shares(agents[:2], relax=True)
        assert [record.getMessage().count("eased") for record in caplog.records] == [1]

    def test_the_form_refuses_beside_its_fields(self, quarters, client, django_user_model):
        client.force_login(django_user_model.objects.create_superuser("olga"))
        form = {"name": "fifth", "strategy": "naive_rag", "chat_backend": "local", "chat_options": "{}", "inherit": "0.5"}
        form |= {"state": "active", "enabled": "on", "priors-TOTAL_FORMS": "0", "priors-INITIAL_FORMS": "0"}
        text = client.post(reverse("admin:agents_agentvariant_add"), form).content.decode()
        assert "minimum share to at most 0.2000" in text
        agent_register(name="fifth", strategy="naive_rag", enabled=False)
        fifth = AgentVariant.objects.get(name="fifth")
        url = reverse("admin:agents_agentvariant_enable", args=[fifth.pk])
        assert "at most 0.2000" in client.post(url, {"confirmed": "yes"}, follow=True).content.decode()
        assert not AgentVariant.objects.get(name="fifth").enabled


class TestPauses:
    def test_a_paused_agent_is_no_candidate_until_it_is_resumed(self, agents):
        agent_limit_set(agent_name="beta", min_share=0.4)
        agent_pause("beta")
        assert set(shares(agents)) == {"alpha", "gamma"}
        agent_pause("beta", paused=False)
        assert shares(agents)["beta"] >= 0.4

    def test_only_paused_agents_say_what_to_do(self, agents):
        agent_pause("alpha")
        with pytest.raises(NoCandidates, match="paused"):
            BanditRouter().route("factual", agents[:1])


class TestPins:
    def test_every_question_of_the_category_goes_to_the_agent_without_a_propensity(self, agents):
        well_rated(agents[0])
        category_pin(category="factual", agent_name="gamma")
        decision = BanditRouter().route("factual", agents)
        assert (decision.variant.name, decision.mode) == ("gamma", "pinned")
        assert (decision.propensity, decision.candidates, decision.seed) == (None, [], None)
        assert BanditRouter().route("vague", agents).mode == "bandit"
        category_pin(category="factual", agent_name=None)
        assert BanditRouter().route("factual", agents).mode == "bandit"

    def test_its_feedback_still_moves_the_arm(self, agents):
        rate(interaction(agents[2], mode="pinned"), 1.0)
        rate(interaction(agents[2], mode="sticky"), 1.0)
        assert BanditArm.objects.get().pulls == 2

    def test_a_pin_and_a_pause_do_not_go_together(self, agents):
        category_pin(category="factual", agent_name="gamma")
        with pytest.raises(InvalidInput, match="pinned"):
            agent_pause("gamma")
        agent_pause("alpha")
        with pytest.raises(InvalidInput, match="paused"):
            category_pin(category="vague", agent_name="alpha")
        with pytest.raises(InvalidInput, match="delta"):
            category_pin(category="vague", agent_name="delta")

    def test_a_pin_to_an_agent_that_is_gone_refuses_with_the_remedy(self, agents):
        category_pin(category="factual", agent_name="gamma")
        with pytest.raises(PinnedUnavailable, match="remove the pin"):
            BanditRouter().route("factual", agents[:2])


class TestSessions:
    def sticky(self):
        policy = active_policy()
        policy.sticky_sessions = True
        policy_save(policy)

    def test_a_session_keeps_its_agent_where_the_policy_says_so(self, agents, django_assert_num_queries):
        interaction(agents[1], session="s", mode="bandit", propensity=0.5)
        assert BanditRouter().route("factual", agents, session="s").mode == "bandit"
        self.sticky()
        with django_assert_num_queries(1):
            decision = BanditRouter().route("vague", agents, session="s")
        assert (decision.variant, decision.mode, decision.propensity) == (agents[1], "sticky", None)
        for session in ("other", ""):
            assert BanditRouter().route("vague", agents, session=session).mode == "bandit"

    def test_an_agent_that_was_forced_failed_or_is_paused_is_not_kept(self, agents):
        self.sticky()
        interaction(agents[0], session="s", mode="manual_override")
        interaction(agents[0], session="s", mode="bandit", state="failed")
        assert BanditRouter().route("factual", agents, session="s").mode == "bandit"
        interaction(agents[1], session="s", mode="bandit")
        agent_pause("beta")
        assert BanditRouter().route("factual", agents, session="s").mode == "bandit"

    def test_a_pin_comes_before_the_session(self, agents):
        self.sticky()
        interaction(agents[1], session="s", mode="bandit")
        category_pin(category="factual", agent_name="gamma")
        assert BanditRouter().route("factual", agents, session="s").variant == agents[2]


@pytest.mark.usefixtures("embedded_by_hash")
@pytest.mark.parametrize("kind", list(POLICIES))
def test_every_logged_decision_repeats_from_its_row(kind):
    policy_activate(policy_save(RoutingPolicy(name="mine", kind=kind, sticky_sessions=True)))
    library = collection_get_or_create("default")
    document_add(collection=library, name="a.md", data=b"# Numbers\n\nNumber one is Marta Olsen.")
    for name in ("alpha", "beta", "gamma"):
        variant(name, chat_backend="scripted", chat_options={"answer": "Yes."}, parameters={"retriever": "bm25"})
    agent_limit_set(agent_name="alpha", max_share=0.5)
    category_pin(category="vague", agent_name="beta")
    for i in range(12):
        asked = query(
            QueryRequest(question=f"Who is number {i}?", category="vague" if i == 5 else "factual", session=f"s{i % 9}")
        )
        rate(Interaction.objects.get(pk=asked.interaction_id), (i % 3) / 2)
    modes = set()
    for row in Interaction.objects.all():
        modes.add(row.mode)
        assert (row.policy, row.policy_revision) == ("mine", 1)
        if row.mode != "bandit":
            assert (row.propensity, row.seed, row.candidates) == (None, None, [])
            continue
        chosen = row.candidates[drawn_again(row.candidates, row.seed)]
        assert (chosen["variant_id"], chosen["probability"]) == (row.variant_id, row.propensity)
        assert next(one["probability"] for one in row.candidates if one["agent"] == "alpha") <= 0.5 + 1e-9
    assert modes == {"bandit", "pinned", "sticky"}


def test_markers_tell_what_changed_when_and_by_whom(agents, olga):
    start = timezone.now()
    policy = active_policy()
    policy.min_share = 0.05
    policy_save(policy, user=olga)
    policy_save(policy, user=olga)  # changes nothing
    policy_activate(policy_save(RoutingPolicy(name="greedy", kind="epsilon_greedy"), user=olga), user=olga)
    prior_set(category="factual", agent_name="alpha", pulls=4, total=3, user=olga)
    agent_limit_set(agent_name="alpha", max_share=0.4, user=olga)
    category_pin(category="vague", agent_name="beta", user=olga)
    category_pin(category="vague", agent_name=None, user=olga)
    learning_reset(user=olga)
    markers = change_markers(start)
    assert [marker.at for marker in markers] == sorted(marker.at for marker in markers)
    assert {marker.by for marker in markers} == {"olga"}
    assert [(marker.kind, marker.label) for marker in markers] == [
        ("policy", "hierarchical_thompson r2: changed"),
        ("policy", "greedy r1 routes"),
        ("prior", "alpha / factual: 3 of 4"),
        ("limit", "alpha: at most 40 %"),
        ("pin", "vague -> beta"),
        ("pin", "vague -> beta: removed"),
        ("policy", "back to the priors"),
    ]
    assert change_markers(timezone.now() + timedelta(seconds=1)) == []
    assert not CategoryPin.objects.exists()
