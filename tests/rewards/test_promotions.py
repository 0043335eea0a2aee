"""A variant's life in rows: gate, canary, growth, guard, retirement."""

from __future__ import annotations

import dataclasses
import random
import threading
from contextlib import closing

import pytest
from django.conf import settings as django_settings
from django.core.management.sql import emit_post_migrate_signal
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.module_loading import import_string
from django_q.models import Schedule
from scipy.stats import binom

from adaptrag import orchestrator
from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.orchestrator import QueryRequest, query
from agents.errors import UnknownAgent
from agents.models import AgentVariant
from agents.selectors import answering_variants, live_variant, live_variants
from agents.services import agent_revise, collection_get_or_create, document_add
from evals.metrics import token_f1
from rewards.checks import check_promotion
from rewards.models import Canary, Interaction, PromotionDecision
from rewards.router import BanditRouter, drawn_again
from rewards.services import (
    agent_limit_set,
    canary_standing,
    promotions_watch,
    variant_gate,
    variant_promote,
    variant_retire,
    variant_rollback,
)
from tests.rewards.rows import GOOD, fresh, interaction, rate, rated, state, told, variant

pytestmark = pytest.mark.django_db

ROUNDS = 200


@pytest.fixture(scope="module", autouse=True)
def content_types_come_back(django_db_blocker):
    """Django leaves none behind a test with `available_apps`; the next module's tests have rows that name them."""
    yield
    with django_db_blocker.unblock():
        emit_post_migrate_signal(verbosity=0, interactive=False, db="default")


class TestGate:
    def test_a_better_candidate_becomes_a_canary_with_the_start_share(self, tuned, alpha):
        decision = variant_gate(tuned, GOOD)
        assert (decision.verdict, decision.to_state, decision.decided_by) == ("promoted", "canary", "gate")
        assert decision.rollback_to == alpha and decision.figures["n"] == 80
        canary = Canary.objects.get()
        assert (canary.variant, canary.incumbent, canary.min_share, canary.max_share) == (tuned, alpha, 0.1, 0.1)

    def test_what_is_not_shown_to_be_good_stays_a_candidate_without_traffic(self, tuned, alpha):
        for evidence, verdict in (
            (dataclasses.replace(GOOD, difference=-0.2, low=-0.3, high=-0.1), "rejected"),
            (dataclasses.replace(GOOD, n=10), "needs_human"),
            (dataclasses.replace(GOOD, references="judge", judge_calibrated=False), "needs_human"),
        ):
            assert variant_gate(tuned, evidence).verdict == verdict
            assert state(tuned) == "candidate" and live_variants() == [alpha]

    def test_a_step_may_ask_for_a_person(self, tuned, alpha, olga, settings):
        settings.ADAPTRAG_ASK_CANARY = True
        assert variant_gate(tuned, GOOD).verdict == "waits"
        with pytest.raises(Conflict, match="waits for a person"):
            variant_promote(fresh(tuned), reason="")
        decision = variant_promote(fresh(tuned), reason="", user=olga)
        assert (decision.decided_by, decision.override, decision.figures["n"]) == ("olga", False, 80)
        assert "is better than alpha" in decision.reason and state(tuned) == "canary"

    def test_the_gate_can_be_overridden_by_name_and_with_a_reason(self, tuned, alpha, olga):
        with pytest.raises(Conflict, match="override the gate"):
            variant_promote(tuned, reason="why not", user=olga)
        with pytest.raises(InvalidInput, match="Say why"):
            variant_promote(tuned, reason=" ", user=olga, override=True)
        decision = variant_promote(tuned, reason="demo tomorrow", user=olga, override=True)
        assert (decision.override, decision.reason, decision.user, decision.rollback_to) == (True, "demo tomorrow", olga, alpha)

    def test_an_override_keeps_what_the_gate_found(self, tuned, alpha, olga):
        variant_gate(tuned, dataclasses.replace(GOOD, difference=-0.2, low=-0.3, high=-0.1))
        decision = variant_promote(fresh(tuned), reason="demo tomorrow", user=olga, override=True)
        assert (decision.figures["difference"], decision.decided_by) == (-0.2, "olga")

    def test_a_gate_that_a_user_had_asked_is_the_gates_verdict(self, tuned, olga):
        decision = variant_gate(tuned, GOOD, user=olga)
        assert (decision.decided_by, decision.user, decision.who) == ("gate", olga, "gate, asked by olga")

    def test_a_canary_under_trial_is_replaced_by_a_click_alone(self, tuned, alpha, olga):
        variant_gate(tuned, GOOD)
        better = agent_revise(fresh(tuned), state="candidate")
        decision = variant_gate(better, dataclasses.replace(GOOD, candidate="tuned r2"))
        assert (decision.verdict, state(tuned), state(better)) == ("waits", "canary", "candidate")
        assert "tuned r1 is still a canary" in decision.reason
        variant_promote(fresh(better), reason="", user=olga)
        assert (state(tuned), state(better)) == ("retired", "canary")

    def test_evidence_about_another_agent_is_refused(self, tuned):
        with pytest.raises(Conflict, match="about other"):
            variant_gate(tuned, dataclasses.replace(GOOD, candidate="other"))
        with pytest.raises(UnknownAgent):
            variant_gate(tuned, dataclasses.replace(GOOD, incumbent="nobody"))
        assert not PromotionDecision.objects.exists()


class TestTraffic:
    def shares(self, agents=None):
        return {
            f"{row['agent']}@{row['revision']}": row["probability"]
            for row in BanditRouter().route("factual", agents or live_variants()).candidates
        }

    def test_a_canary_revision_is_routed_beside_the_active_one_within_its_cap(self, alpha, django_assert_num_queries):
        beta = variant("beta")
        for _ in range(30):
            rated(alpha, 0.3), rated(beta, 0.5)
        revised = agent_revise(alpha, state="candidate", note="better")
        assert set(self.shares()) == {"alpha@1", "beta@1"}
        variant_promote(revised, reason="try", override=True)
        for _ in range(8):
            rated(fresh(revised), 1.0)
        live = live_variants()
        with django_assert_num_queries(1):
            found = self.shares(live)
        # What the cap cuts off is its incumbent's, though another agent is better than that one.
        assert found == pytest.approx({"alpha@2": 0.1, "alpha@1": 0.88, "beta@1": 0.02}, abs=0.05)
        assert live_variant("alpha").revision == 1 and live_variant("alpha@2").revision == 2
        assert [str(one) for one in answering_variants()] == ["alpha r1", "beta r1"]

    def test_a_canary_keeps_its_least_share_however_bad_it_is(self, tuned, alpha):
        for _ in range(30):
            rated(alpha, 1.0)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(6):
            rated(fresh(tuned), 0.0)
        assert self.shares() == pytest.approx({"alpha@1": 0.9, "tuned@1": 0.1})

    def test_a_caller_that_names_the_agent_as_a_candidate_lets_its_canary_be_tried(self, alpha):
        beta = variant("beta")
        variant_promote(agent_revise(alpha, state="candidate"), reason="try", override=True)
        chosen = orchestrator._candidates(("beta", "alpha"), None)
        assert [str(one) for one in chosen] == ["beta r1", "alpha r1", "alpha r2"] and chosen[0] == beta

    @pytest.mark.parametrize(("cap", "shares"), [(0.2, (0.1, 0.1)), (0.05, (0.0, 0.05))])
    def test_an_agents_largest_share_holds_for_its_revision_and_its_canary_together(
        self, alpha, cap, shares, django_assert_num_queries
    ):
        variant("beta")
        variant_promote(agent_revise(alpha, state="candidate"), reason="try", override=True)
        for _ in range(30):
            rated(alpha, 1.0)
        agent_limit_set(agent_name="alpha", max_share=cap)
        live = live_variants()
        with django_assert_num_queries(1):
            found = self.shares(live)
        assert (found["alpha@1"], found["alpha@2"]) == pytest.approx(shares)
        assert found["beta@1"] == pytest.approx(1 - cap)

    def test_a_limit_that_only_agent_and_canary_could_fill_twice_is_refused(self, alpha):
        beta = variant("beta")
        variant_promote(agent_revise(alpha, state="candidate"), reason="try", override=True)
        agent_limit_set(agent_name="alpha", max_share=0.5)
        with pytest.raises(InvalidInput, match=r"leave 5\.00% of the traffic to nobody"):
            agent_limit_set(agent_name=beta.name, max_share=0.45)

    def test_a_guard_takes_a_canary_out_though_the_limits_then_cannot_be_kept(self, tuned, alpha, caplog):
        variant_promote(tuned, reason="try", override=True)
        agent_limit_set(agent_name="alpha", max_share=0.9)
        with pytest.raises(Conflict, match=r"10\.00% of the traffic to nobody"):
            variant_retire(fresh(tuned), reason="tidy")
        assert state(tuned) == "canary"
        variant_rollback(fresh(tuned), reason="failed", by="guard")
        assert state(tuned) == "retired"
        decision = BanditRouter().route("factual", live_variants(), relax=True)
        assert (decision.variant, decision.propensity) == (alpha, 1.0)
        assert "limits are eased" in caplog.text and "alpha r1" in caplog.text

    def test_a_limit_of_the_operator_binds_a_canary_too(self, tuned, alpha):
        variant_promote(tuned, reason="try", override=True)
        agent_limit_set(agent_name="tuned", max_share=0.05)
        assert self.shares()["tuned@1"] == pytest.approx(0.05)


class TestLife:
    def test_a_good_canary_grows_and_becomes_active_and_its_older_revision_retires(self, alpha):
        for i in range(100):
            rated(alpha, i % 2 / 2)
        revised = agent_revise(alpha, state="candidate")
        variant_promote(revised, reason="try", override=True)
        for _ in range(20):
            rated(fresh(revised), 0.9)
        assert [row[:3] for row in told(revised)] == [
            ("promoted", "candidate", "canary"),
            ("grew", "canary", "canary"),
            ("promoted", "canary", "active"),
        ]
        assert (state(revised), state(alpha)) == ("active", "retired") and not Canary.objects.exists()
        assert told(alpha) == [("retired", "active", "retired", "canary")]

    def test_the_last_step_may_ask_for_a_person(self, tuned, alpha, olga, settings):
        settings.ADAPTRAG_ASK_ACTIVE = True
        for _ in range(50):
            rated(alpha, 0.2)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(30):
            rated(fresh(tuned), 0.9)
        assert (state(tuned), [row[0] for row in told(tuned)]) == ("canary", ["promoted", "grew", "waits"])
        variant_promote(fresh(tuned), reason="looks good", user=olga)
        assert (state(tuned), state(alpha)) == ("active", "active")

    def test_growth_may_ask_for_a_person(self, tuned, alpha, olga, settings):
        settings.ADAPTRAG_ASK_GROW = True
        for _ in range(50):
            rated(alpha, 0.2)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(40):
            rated(fresh(tuned), 0.9)
        assert (Canary.objects.get().max_share, [row[0] for row in told(tuned)]) == (0.1, ["promoted", "waits"])
        decision = variant_promote(fresh(tuned), reason="", user=olga)
        assert (decision.verdict, decision.decided_by, Canary.objects.get().max_share) == ("grew", "olga", 0.2)
        rated(fresh(tuned), 0.9)
        assert state(tuned) == "active"

    def test_a_canary_that_is_not_sure_yet_becomes_active_only_by_override(self, tuned, alpha, olga):
        variant_promote(tuned, reason="try", override=True)
        with pytest.raises(Conflict, match="no rated answer yet"):
            variant_promote(fresh(tuned), reason="", user=olga)
        assert variant_promote(fresh(tuned), reason="urgent", user=olga, override=True).to_state == "active"

    def test_the_guard_rolls_back_a_bad_canary(self, tuned, alpha):
        for _ in range(50):
            rated(alpha, 0.8)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(12):
            rated(fresh(tuned), 0.0)
        last = fresh(tuned).decisions.first()
        assert (last.verdict, last.decided_by, last.rollback_to, last.figures["n"]) == ("rolled_back", "guard", alpha, 8)
        assert (state(tuned), state(alpha)) == ("retired", "active")

    def test_a_guard_that_must_ask_stops_the_traffic_at_once(self, tuned, alpha, olga, settings):
        settings.ADAPTRAG_ASK_ROLLBACK = True
        for _ in range(50):
            rated(alpha, 0.8)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(12):
            rated(fresh(tuned), 0.0)
        assert [row[0] for row in told(tuned)] == ["promoted", "paused"] and state(tuned) == "canary"
        assert [one["agent"] for one in BanditRouter().route("factual", live_variants()).candidates] == ["alpha"]
        variant_rollback("tuned", reason="agreed", user=olga)
        assert state(tuned) == "retired"

    def test_the_guard_minds_errors_without_any_rating(self, tuned, alpha):
        for _ in range(30):
            interaction(alpha)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(10):
            interaction(fresh(tuned), state="failed", error={"code": "x", "message": "y"})
        last = fresh(tuned).decisions.first()
        assert (last.verdict, last.decided_by) == ("rolled_back", "guard") and "failed" in last.reason

    def test_a_model_process_at_its_limit_is_no_fault_of_the_canary(self, tuned, alpha):
        for _ in range(30):
            interaction(alpha)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(30):
            interaction(fresh(tuned), state="failed", error={"code": "chat_model_overloaded", "message": "y"})
        assert promotions_watch() == [] and state(tuned) == "canary"
        assert canary_standing(Canary.objects.select_related("variant", "incumbent").get()).figures["worse"] < 0.9

    def test_answers_of_a_fall_back_model_count_as_failed_and_their_ratings_not(self, alpha):
        stepped_in = {"from": "a", "to": "b", "reason": "down", "code": "chat_model_unavailable"}
        spare = {"fallback": {"backend": "scripted", "model": "b"}}
        tuned = variant("tuned", state="candidate", predecessor=alpha, chat_options=spare)
        for _ in range(30):
            rated(alpha, 0.5)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(5):
            rated(fresh(tuned), 1.0, fallback=stepped_in)
        rated(fresh(tuned), 0.5)
        figures = canary_standing(Canary.objects.select_related("variant", "incumbent").get()).figures
        assert (figures["n"], figures["mean"], figures["failed"], figures["answers"]) == (1, 0.5, 5, 6)
        for _ in range(10):
            interaction(fresh(tuned), fallback=stepped_in)
        (decision,) = promotions_watch()
        assert decision.verdict == "rolled_back" and "failed" in decision.reason

    def test_the_schedule_minds_latency(self, tuned, alpha):
        for _ in range(30):
            interaction(alpha, latency_ms=100)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(30):
            interaction(fresh(tuned), latency_ms=150)
        assert promotions_watch() == []
        for _ in range(30):
            interaction(fresh(tuned), latency_ms=900)
        (decision,) = promotions_watch()
        assert decision.verdict == "rolled_back" and "slow" in decision.reason

    def test_ratings_of_others_cost_no_query_for_canaries(self, tuned, alpha, django_assert_num_queries, monkeypatch):
        monkeypatch.setattr("rewards.services.rollup.FOLD_EVERY", 10**12)  # which change folds the others is chance
        rated(alpha, 1.0)
        with CaptureQueriesContext(connection) as before:
            rated(alpha, 1.0)
        variant_promote(tuned, reason="try", override=True)
        with django_assert_num_queries(len(before)):
            rated(alpha, 1.0)


def test_the_schedule_looks_after_canaries(tuned, alpha):
    row = Schedule.objects.get(name="promotions: watch")
    assert (row.func, row.minutes) == ("rewards.tasks.promotions_watch", 1)
    for _ in range(20):
        rated(alpha, 0.9)
    variant_promote(tuned, reason="try", override=True)
    for _ in range(10):
        rated(tuned, 0.0)  # as a process that loaded it as a candidate rates it
    assert state(tuned) in ("canary", "retired")
    import_string(row.func)()
    assert state(tuned) == "retired"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GUARD_AT", 1.2, "probability"),
        ("CANARY_MAX_SHARE", 0.01, "between canary_share"),
        ("GATE_REFERENCES", 0, "at least 2"),
    ],
)
def test_checks_name_thresholds_that_make_no_sense(settings, name, value, words):
    assert check_promotion() == []
    setattr(settings, f"ADAPTRAG_{name}", value)
    (found,) = check_promotion()
    assert found.id == "rewards.E003" and words in found.msg and f"ADAPTRAG_{name}" in found.msg and found.hint


def test_a_random_life_keeps_canaries_and_states_in_step():
    generator = random.Random(7)
    agents = [variant(name) for name in ("alpha", "beta")] + [variant(f"c{i}", state="candidate") for i in range(3)]
    for _ in range(60):
        row = fresh(generator.choice(agents))
        act = generator.choice([variant_promote, variant_rollback, variant_retire])
        try:
            act(row, reason="chance", **({"override": True} if act is variant_promote else {}))
        except Conflict:
            continue
    canaries = set(AgentVariant.objects.filter(state="canary").values_list("pk", flat=True))
    assert set(Canary.objects.values_list("pk", flat=True)) == canaries and live_variants()


@pytest.mark.parametrize("start", [0.2, 0.1])
def test_a_broken_canary_keeps_within_its_cap_and_is_gone_within_200_rounds(settings, monkeypatch, start):
    """The production loop: routed, answered, logged and rated, with a gate that somebody has overridden."""
    settings.ADAPTRAG_CANARY_SHARE = start
    generator = random.Random(2026)
    monkeypatch.setattr("rewards.router.secrets.randbits", generator.getrandbits)
    document_add(collection=collection_get_or_create("default"), name="a.md", data=b"# Towns\n\nAnna built the bridge.")
    scripted = {"chat_backend": "scripted", "parameters": {"retriever": "bm25"}}
    incumbent = variant("incumbent", chat_options={"answer": "Anna built it."}, **scripted)
    broken = variant("broken", state="candidate", predecessor=incumbent, chat_options={"answer": "Zz zz."}, **scripted)
    gold = ["Anna", "Anna built the bridge", "the bridge was built by Anna", "Bob", "in 1904"]
    for i in range(100):  # what the incumbent earned before
        rated(incumbent, token_f1("Anna built it.", [gold[i % len(gold)]]))
    variant_promote(broken, reason="a rehearsal", override=True)
    asked = tried = 0
    for number in range(1, ROUNDS + 1):
        tries = state(broken) == "canary"
        result = query(QueryRequest(question="Who built the bridge?", session=f"s{number}"))
        row = Interaction.objects.get(pk=result.interaction_id)
        assert row.candidates[drawn_again(row.candidates, row.seed)]["probability"] == row.propensity
        shown = {one["agent"]: one["probability"] for one in row.candidates}
        assert shown.get("broken", 0) <= 0.2 + 1e-9 and ("broken" in shown) is tries
        asked, tried = asked + tries, tried + (result.agent == "broken")
        rate(row, token_f1(result.answer, [generator.choice(gold)]))
    decision = fresh(broken).decisions.first()
    assert (decision.verdict, decision.decided_by, state(broken)) == ("rolled_back", "guard", "retired")
    assert tried <= binom.ppf(0.999, asked, 0.2)


# With the apps named, Django empties tables by CASCADE, which PostgreSQL needs for a table that a replaced model left.
@pytest.mark.django_db(transaction=True, available_apps=django_settings.INSTALLED_APPS)
def test_two_promotes_at_once_leave_one_decision():
    variant("alpha")
    row = variant("tuned", state="candidate")
    start, errors = threading.Barrier(4), []

    def promote():
        with closing(connection):
            seen = fresh(row)
            start.wait()
            try:
                variant_promote(seen, reason="now", override=True)
            except Conflict as error:
                errors.append(error.message)

    threads = [threading.Thread(target=promote) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3 and all("by now" in error for error in errors)
    assert len(told(row)) == 1 and state(row) == "canary"
