"""POST, GET /api/improve; GET one, cancel, resume. For operators."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.fields import Strict, Text, Whole, validated
from adaptrag.loop.models import LoopRun, LoopStage
from adaptrag.loop.services import (
    ImproveRequest,
    improve_cancel,
    improve_get,
    improve_plan,
    improve_resume,
    improve_start,
    plan_summary,
)

MOST = 2**31 - 1


class ImproveStartSerializer(Strict):
    dry_run = serializers.BooleanField(required=False, help_text="Say what it would do, with figures; change nothing.")
    force = serializers.BooleanField(required=False, help_text="Also with little new data.")
    eval_set = Text(required=False, allow_null=True, allow_blank=True, max_length=64, help_text="Whose gold answers gate.")
    collection = Text(required=False, allow_null=True, max_length=64, help_text="Where the gate's questions are asked.")
    model = Text(required=False, allow_blank=True, max_length=300, help_text="The student.")
    steps = Whole(required=False, allow_null=True, min_value=1, max_value=1_000_000)
    quantize = Text(required=False, allow_null=True, allow_blank=True, max_length=32, help_text="Mode of the build, or none.")
    questions = Whole(required=False, allow_null=True, min_value=1, max_value=1_000_000, help_text="Most of the gate.")
    top_k = Whole(required=False, min_value=1, max_value=50)
    incumbent = Text(required=False, allow_blank=True, max_length=64, help_text="Agent to compare with.")


class StageSerializer(serializers.ModelSerializer):
    stage = serializers.CharField(source="name")
    job = serializers.IntegerField(source="job_id", allow_null=True)
    progress = serializers.FloatField(source="job.progress", default=None, allow_null=True, help_text="0 to 1.")

    class Meta:
        model = LoopStage
        fields = ["stage", "state", "seconds", "detail", "job", "progress"]


class ImproveSerializer(serializers.ModelSerializer):
    run = serializers.IntegerField(source="pk")
    stages = StageSerializer(many=True)
    verdict = serializers.CharField(
        allow_blank=True, help_text="promoted, rejected, needs_human, skipped, failed; empty: none yet."
    )
    candidate = serializers.CharField(allow_null=True)
    incumbent = serializers.CharField(allow_null=True)

    class Meta:
        model = LoopRun
        fields = [
            "run", "state", "verdict", "reason", "candidate", "incumbent", "stages", "trigger", "options", "created_at",
            "finished_at",
        ]  # fmt: skip


class PlannedSerializer(serializers.Serializer):
    stage = serializers.CharField()
    state = serializers.ChoiceField(choices=["planned", "skipped"])
    seconds = serializers.FloatField(allow_null=True)
    detail = serializers.CharField()


class ReferencesSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(choices=["gold", "corrections", "judge"])
    n = serializers.IntegerField()
    needed = serializers.IntegerField()


class ImprovePlanSerializer(serializers.Serializer):
    run = serializers.IntegerField(allow_null=True)
    dry_run = serializers.BooleanField()
    stages = PlannedSerializer(many=True)
    verdict = serializers.CharField(allow_null=True, help_text="The one that stands already; null where the run decides.")
    candidate = serializers.CharField(allow_null=True)
    incumbent = serializers.CharField()
    new = serializers.IntegerField(help_text="What is new since the last run and can be learned from.")
    needed_new = serializers.IntegerField()
    references = ReferencesSerializer()


class _Operators:
    operator_methods = ("GET", "POST")
    site_wide = True


class ImprovementsView(_Operators, generics.ListAPIView):
    queryset = LoopRun.objects.select_related("candidate", "incumbent").prefetch_related("stages__job").order_by("-id")
    serializer_class = ImproveSerializer

    @extend_schema(operation_id="improvements")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Cycles of improvement, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="improve", request=ImproveStartSerializer, responses={202: ImproveSerializer, 200: ImprovePlanSerializer}
    )
    def post(self, request: Request) -> Response:
        """Start a cycle on the queue. 202: watch it at /api/improve/{run}; 200: what it would do, for dry_run."""
        fields = validated(ImproveStartSerializer, request.data)
        dry = fields.pop("dry_run", False)
        asked = ImproveRequest(**fields, trigger=LoopRun.Trigger.API, user=request.user)
        if dry:
            return Response(plan_summary(improve_plan(asked)))
        return Response(ImproveSerializer(improve_start(asked)).data, status=202)


class ImprovementView(_Operators, APIView):
    @extend_schema(operation_id="improvement", responses=ImproveSerializer)
    def get(self, request: Request, run: int) -> Response:
        """One cycle: its stages, how far it is, and its verdict with the reason."""
        return Response(ImproveSerializer(improve_get(run)).data)


class ImprovementCancelView(_Operators, APIView):
    @extend_schema(operation_id="improvement_cancel", request=None, responses=ImproveSerializer)
    def post(self, request: Request, run: int) -> Response:
        """Stop a cycle; what it has kept stays."""
        return Response(ImproveSerializer(improve_cancel(improve_get(run))).data)


class ImprovementResumeView(_Operators, APIView):
    @extend_schema(operation_id="improvement_resume", request=None, responses={202: ImproveSerializer})
    def post(self, request: Request, run: int) -> Response:
        """Go on at the stage that failed, was killed or cancelled."""
        return Response(ImproveSerializer(improve_resume(improve_get(run), user=request.user)).data, status=202)
