"""GET /api/agents/{name}; POST /api/agents/{name}/promote and /rollback. For operators."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.fields import Strict, Text, Whole, validated
from adaptrag.api.inventory import AgentSerializer
from adaptrag.common.errors import InvalidInput
from agents.models import AgentVariant
from evals.gate import evalrun_gate
from evals.services import evalrun_get
from rewards.models import Canary, PromotionDecision
from rewards.selectors import variant_moving, variants_of
from rewards.services import variant_promote, variant_rollback

SHOWN = 20
_REVISION = {"required": False, "allow_null": True, "min_value": 1, "max_value": 2**31 - 1}


class PromoteSerializer(Strict):
    revision = Whole(**_REVISION, help_text="The newest candidate or canary if absent.")
    run = Whole(
        required=False, allow_null=True, min_value=1, max_value=2**63 - 1, help_text="Eval run by which its gate decides."
    )
    incumbent = Text(
        required=False, allow_blank=True, max_length=80, help_text="With `run`: whom it is compared with; the run's baseline."
    )
    override = serializers.BooleanField(required=False, help_text="Whatever gate and ratings say; takes a reason.")
    reason = Text(required=False, allow_blank=True, max_length=2000)


class RollbackSerializer(Strict):
    revision = Whole(**_REVISION, help_text="The canary, else the active revision, if absent.")
    reason = Text(max_length=2000)


class DecisionSerializer(serializers.ModelSerializer):
    decision = serializers.IntegerField(source="pk")
    agent = serializers.CharField(source="variant.name")
    revision = serializers.IntegerField(source="variant.revision")
    verdict = serializers.ChoiceField(choices=PromotionDecision.Verdict.values)
    from_state = serializers.ChoiceField(choices=AgentVariant.State.choices)
    to_state = serializers.ChoiceField(choices=AgentVariant.State.choices, help_text="Of what waits: where a click leads.")
    figures = serializers.DictField()
    rollback_to = serializers.CharField(allow_null=True, help_text="Who answers after a rollback.")
    user = serializers.CharField(
        source="user.username", default=None, allow_null=True, help_text="Who did it, or had the rule of `decided_by` asked."
    )

    class Meta:
        model = PromotionDecision
        fields = [
            "decision", "agent", "revision", "at", "from_state", "to_state", "verdict", "override", "reason", "figures",
            "rollback_to", "decided_by", "user",
        ]  # fmt: skip


class CanarySerializer(serializers.ModelSerializer):
    revision = serializers.IntegerField(source="variant.revision")
    incumbent = serializers.CharField(allow_null=True)

    class Meta:
        model = Canary
        fields = ["revision", "incumbent", "min_share", "max_share", "paused", "started_at"]


class AgentDetailSerializer(serializers.Serializer):
    revisions = AgentSerializer(many=True, help_text="Newest first.")
    canary = CanarySerializer(allow_null=True)
    decisions = DecisionSerializer(many=True, help_text=f"The last {SHOWN}, newest first.")


class _Operators:
    operator_methods = ("GET", "POST")
    site_wide = True


class AgentView(_Operators, APIView):
    @extend_schema(operation_id="agent", responses=AgentDetailSerializer)
    def get(self, request: Request, name: str) -> Response:
        """An agent's revisions with their states, its canary, and its last decisions."""
        revisions = variants_of(name)
        canary = Canary.objects.select_related("variant", "incumbent").filter(variant__in=revisions).first()
        decisions = PromotionDecision.objects.filter(variant__in=revisions).select_related("variant", "rollback_to", "user")[
            :SHOWN
        ]
        return Response(AgentDetailSerializer({"revisions": revisions, "canary": canary, "decisions": decisions}).data)


class PromoteView(_Operators, APIView):
    @extend_schema(operation_id="agent_promote", request=PromoteSerializer, responses=DecisionSerializer)
    def post(self, request: Request, name: str) -> Response:
        """One step on: candidate to canary, canary to active. With `run` the gate decides, and may say no: see `verdict`.
        Without, this is the click that a step waits for, or with `override` a step that nothing else allows."""
        fields = validated(PromoteSerializer, request.data)
        number, override, reason = fields.get("run"), fields.get("override", False), fields.get("reason", "")
        if number is not None and override:
            raise InvalidInput("Either a run decides or you override it; leave out one of run and override.", field="override")
        if fields.get("incumbent") and number is None:
            raise InvalidInput("incumbent goes with a run that asked it; leave it out, or add run.", field="incumbent")
        variant = variant_moving(name, fields.get("revision"))
        if number is not None:
            decision = evalrun_gate(evalrun_get(number), variant, fields.get("incumbent", ""), user=request.user)
        else:
            decision = variant_promote(variant, reason=reason, user=request.user, override=override)
        return Response(DecisionSerializer(decision).data)


class RollbackView(_Operators, APIView):
    @extend_schema(operation_id="agent_rollback", request=RollbackSerializer, responses=DecisionSerializer)
    def post(self, request: Request, name: str) -> Response:
        """Retire the canary, or what was promoted last, and put back who answered before."""
        fields = validated(RollbackSerializer, request.data)
        revision = fields.get("revision")
        target: Any = name if revision is None else variant_moving(name, revision)
        return Response(DecisionSerializer(variant_rollback(target, reason=fields["reason"], user=request.user)).data)
