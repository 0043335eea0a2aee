"""The way back: rollbacks, and the history that every change of a state leaves."""

from __future__ import annotations

import pytest
from django.core import serializers
from django.db.models import ProtectedError

from adaptrag.common.errors import Conflict, InvalidInput
from agents.errors import UnknownAgent
from agents.models import AgentVariant, ModelArtifact
from agents.selectors import live_variants
from agents.services import agent_revise, agent_set_state
from rewards.models import Canary, PromotionDecision
from rewards.services import (
    variant_gate,
    variant_promote,
    variant_retire,
    variant_rollback,
)
from tests.rewards.rows import GOOD, fresh, rated, state, told, variant

pytestmark = pytest.mark.django_db


class TestRollback:
    def test_one_call_puts_the_former_revision_back(self, alpha, olga):
        variant("beta")
        revised = agent_revise(alpha, state="candidate")
        variant_promote(revised, reason="try", override=True)
        variant_promote(fresh(revised), reason="now", override=True)
        assert (state(alpha), state(revised)) == ("retired", "active")
        decision = variant_rollback("alpha", reason="users complain", user=olga)
        assert (decision.variant, decision.rollback_to, decision.decided_by) == (revised, alpha, "olga")
        assert (state(alpha), state(revised)) == ("active", "retired")
        assert told(alpha)[-1][0] == "restored"
        with pytest.raises(Conflict, match="nothing to go back to"):
            variant_rollback("alpha", reason="again")

    def test_what_a_promotion_retired_is_restored_though_its_incumbent_was_another_agent(self, alpha, olga):
        former = variant("tuned", predecessor=alpha)
        revised = agent_revise(former, state="candidate")
        variant_promote(revised, reason="try", override=True, incumbent=alpha)
        variant_promote(fresh(revised), reason="now", override=True)
        assert state(former) == "retired"
        decision = variant_rollback("tuned", reason="users complain", user=olga)
        assert (decision.rollback_to, state(former), state(revised), state(alpha)) == (alpha, "active", "retired", "active")

    def test_what_a_person_retired_since_stays_retired(self, alpha):
        former = variant("tuned", predecessor=alpha)
        revised = agent_revise(former, state="candidate")
        variant_promote(revised, reason="try", override=True, incumbent=alpha)
        variant_promote(fresh(revised), reason="now", override=True)
        agent_set_state(fresh(former), "active")
        variant_retire(fresh(former), reason="wrong numbers")
        variant_rollback("tuned", reason="users complain")
        assert state(former) == "retired"

    def test_a_rollback_by_hand_keeps_the_figures_of_that_moment(self, tuned, alpha, olga):
        for _ in range(4):
            rated(alpha, 0.5)
        variant_promote(tuned, reason="try", override=True)
        for _ in range(3):
            rated(fresh(tuned), 0.5)
        figures = variant_rollback("tuned", reason="a complaint", user=olga).figures
        assert (figures["n"], figures["incumbent_n"], figures["share"]) == (3, 4, 0.1)
        revised = agent_revise(alpha, user=olga, chat_options={"max_tokens": 16})
        rated(revised, 0.5)
        assert variant_rollback("alpha", reason="worse", user=olga).figures["n"] == 1

    def test_an_edit_can_be_rolled_back_too(self, alpha, olga):
        agent_revise(alpha, user=olga, chat_options={"max_tokens": 16})
        assert variant_rollback("alpha", reason="worse", user=olga).rollback_to == alpha
        assert [one.revision for one in live_variants()] == [1]

    def test_it_takes_a_reason_and_an_agent_that_is_in_the_traffic(self, tuned, alpha):
        for name, reason, error in (
            ("tuned", "no", Conflict),
            ("nobody", "no", UnknownAgent),
            ("alpha", "no", Conflict),
            ("alpha", "", InvalidInput),
        ):
            with pytest.raises(error):
                variant_rollback(name, reason=reason)

    def test_the_last_agent_stays(self, alpha):
        with pytest.raises(Conflict, match="only agent"):
            variant_retire(alpha, reason="tired of it")

    def test_an_artifact_in_use_cannot_be_deleted(self, alpha):
        artifact = ModelArtifact.objects.create(name="a", kind="adapter", base_model="m", path="p", sha256="0")
        tuned = variant("tuned", state="candidate", artifact=artifact)
        variant_retire(tuned, reason="rejected")
        with pytest.raises(ProtectedError):
            artifact.delete()


class TestHistory:
    def test_decisions_are_never_changed_or_deleted(self, tuned, alpha):
        decision = variant_gate(tuned, GOOD)
        for change in (
            decision.save,
            decision.delete,
            PromotionDecision.objects.all().delete,
            lambda: PromotionDecision.objects.update(reason="x"),
        ):
            with pytest.raises(TypeError):
                change()

    def test_a_decision_outlives_the_account_of_who_made_it(self, tuned, alpha, olga):
        variant_promote(tuned, reason="try", override=True, user=olga)
        olga.delete()
        decision = PromotionDecision.objects.get()
        assert (decision.user, decision.decided_by) == (None, "olga")

    def test_rows_loaded_from_another_site_make_no_decisions(self, tuned, alpha):
        variant_promote(tuned, reason="try", override=True)
        text = serializers.serialize("json", AgentVariant.objects.all())
        agent_set_state(fresh(tuned), "active")
        before = PromotionDecision.objects.count()
        for loaded in serializers.deserialize("json", text):
            loaded.save()
        assert state(tuned) == "canary" and PromotionDecision.objects.count() == before

    def test_a_state_set_directly_is_a_decision_too_and_takes_the_canary_along(self, tuned, alpha, olga):
        agent_set_state(tuned, "canary", user=olga)
        assert Canary.objects.get().incumbent == alpha
        agent_set_state(fresh(tuned), "active", user=olga)
        assert not Canary.objects.exists()
        assert told(tuned) == [("moved", "candidate", "canary", "olga"), ("moved", "canary", "active", "olga")]

    def test_who_comes_second_does_not_promote_twice(self, tuned, alpha):
        first, second = fresh(tuned), fresh(tuned)
        variant_promote(first, reason="a", override=True)
        with pytest.raises(Conflict, match="by now"):
            variant_promote(second, reason="b", override=True)
        assert len(told(tuned)) == 1

    def test_changing_a_canary_makes_a_candidate(self, tuned, alpha):
        variant_promote(tuned, reason="try", override=True)
        assert agent_revise(fresh(tuned), note="other words").state == "candidate"
