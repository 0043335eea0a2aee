"""POST, GET /api/evals/runs; GET one, its results, cancel, resume; POST, GET /api/evals/sets, export. For operators."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.errors import TooLarge
from adaptrag.api.fields import Choice, Number, Strict, Text, Whole, validated
from adaptrag.api.pagination import Pages
from agents.models import slug_validator
from evals.models import EvalResult, EvalRun, EvalSet
from evals.selectors import judge_calibration
from evals.services import (
    RunRequest,
    evalrun_cancel,
    evalrun_get,
    evalrun_regressions,
    evalrun_resume,
    evalrun_start,
    evalrun_summary_now,
    evalset_export,
    evalset_get,
    evalset_upload,
)
from evals.services.reports import pair_dict

BASELINE = OpenApiParameter(
    "baseline", OpenApiTypes.INT, description="Number of an earlier run: adds `regressions`, each agent against itself there."
)


class StartSerializer(Strict):
    eval_set = Text(max_length=64, help_text="Name of an eval set.")
    version = Whole(required=False, allow_null=True, min_value=1, max_value=2**31 - 1, help_text="Its newest if absent.")
    agents = serializers.ListField(
        child=Text(max_length=80), min_length=1, max_length=20, help_text="Names, or name@revision; the first is the baseline."
    )
    baseline = Text(required=False, allow_blank=True, max_length=80)
    collection = Text(required=False, allow_null=True, max_length=64, help_text="The set's own, else the default, if absent.")
    top_k = Whole(required=False, min_value=1, max_value=50)
    max_questions = Whole(required=False, allow_null=True, min_value=1, max_value=1_000_000)
    judge = Choice(required=False, choices=EvalRun.Judge.choices)
    judge_model = Text(required=False, allow_blank=True, max_length=330, help_text="backend:model; the settings' if absent.")
    judge_options = serializers.DictField(
        required=False, help_text="Its chat options: base_url, timeout, price_prompt_per_million, price_completion_per_million."
    )
    judge_blind = serializers.BooleanField(required=False, help_text="The judge is not shown the gold answers.")
    pairwise = serializers.BooleanField(required=False, help_text="The judge also compares answers with the baseline's.")
    concurrency = Whole(required=False, min_value=1, max_value=64)
    budget_tokens = Whole(required=False, allow_null=True, min_value=1, max_value=10**15)
    budget_usd = Number(required=False, allow_null=True, min_value=0, max_value=10**9)
    name = Text(required=False, allow_blank=True, max_length=200)


class ResumeSerializer(Strict):
    budget_tokens = Whole(required=False, allow_null=True, min_value=1, max_value=10**15, help_text="Replaces the old one.")
    budget_usd = Number(required=False, allow_null=True, min_value=0, max_value=10**9)
    retry_failed = serializers.BooleanField(required=False, help_text="Ask again what ended with an error.")


class RunSerializer(serializers.ModelSerializer):
    run = serializers.IntegerField(source="pk")
    eval_set = serializers.CharField(help_text="Name and version.")
    agents = serializers.SerializerMethodField()
    state = serializers.CharField(
        source="status", help_text="queued, running, done, stopped (at its budget), cancelled, failed, or interrupted."
    )
    job = serializers.IntegerField(source="job_id", allow_null=True, help_text="null: it was started on the command line.")
    progress = serializers.FloatField(source="job.progress", default=None, allow_null=True, help_text="0 to 1.")
    message = serializers.CharField(source="job.message", default="", help_text="How far it is, and how long it takes.")
    error = serializers.CharField(source="job.error", default="", help_text="Why it failed.")

    class Meta:
        model = EvalRun
        fields = [
            "run", "name", "state", "eval_set", "agents", "baseline", "judge", "judge_model", "top_k", "max_questions", "job",
            "progress", "message", "error", "created_at", "finished_at",
        ]  # fmt: skip

    def get_agents(self, run: EvalRun) -> list[str]:
        return [variant.label for variant in run.labelled().values()]


class RunDetailSerializer(RunSerializer):
    summary = serializers.DictField(help_text="What `evals --json` prints, over what is answered so far.")
    regressions = serializers.ListField(child=serializers.DictField(), help_text="With ?baseline=RUN.")

    class Meta(RunSerializer.Meta):
        fields = [*RunSerializer.Meta.fields, "summary", "regressions"]


class ResultSerializer(serializers.ModelSerializer):
    question_id = serializers.CharField(source="question.key")
    question = serializers.CharField(source="question.question")
    gold_answers = serializers.ListField(source="question.answers", child=serializers.CharField())
    agent = serializers.CharField(source="variant.name")
    revision = serializers.IntegerField(source="variant.revision")
    score = serializers.FloatField(allow_null=True, help_text="null: unscored.")
    metrics = serializers.DictField(child=serializers.FloatField())
    judgement = serializers.DictField(allow_null=True)
    judge_calibrated = serializers.SerializerMethodField(help_text="null: no chat model judged. false: not calibrated.")
    pairwise = serializers.SerializerMethodField(
        help_text="The judge's preference against the baseline's answer, not calibrated; null where none was asked for."
    )
    error = serializers.DictField(allow_null=True)

    class Meta:
        model = EvalResult
        fields = [
            "question_id", "question", "gold_answers", "agent", "revision", "answer", "score", "metrics", "judgement",
            "judge_calibrated", "pairwise", "error", "failed", "model", "latency_ms", "prompt_tokens", "completion_tokens",
            "cost_usd", "judge_tokens", "judge_cost_usd",
        ]  # fmt: skip

    def get_judge_calibrated(self, result: EvalResult) -> bool | None:
        return self.context.get("calibrated")

    def get_pairwise(self, result: EvalResult) -> dict[str, Any] | None:
        pair = self.context.get("pairs", {}).get((result.question_id, result.variant_id))
        return pair and pair_dict(pair)


class EvalSetSerializer(serializers.ModelSerializer):
    questions = serializers.IntegerField(source="questions_count")

    class Meta:
        model = EvalSet
        fields = ["name", "version", "source", "origin", "questions", "sha256", "created_at"]


class _Operators:
    operator_methods = ("GET", "POST")
    site_wide = True


class RunsView(_Operators, generics.ListAPIView):
    queryset = EvalRun.objects.select_related("eval_set", "job").prefetch_related("variants").order_by("-id")
    serializer_class = RunSerializer

    @extend_schema(operation_id="eval_runs")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Eval runs, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(operation_id="eval_run_start", request=StartSerializer, responses={202: RunSerializer})
    def post(self, request: Request) -> Response:
        """Start a run on the queue. 202: watch it at /api/evals/runs/{run}."""
        fields = validated(StartSerializer, request.data)
        eval_set = evalset_get(fields.pop("eval_set"), fields.pop("version", None))
        backend, _, model = fields.pop("judge_model", "").partition(":")
        asked = RunRequest(
            eval_set=eval_set, agents=tuple(fields.pop("agents")), judge_backend=backend, judge_model=model, user=request.user,
            **fields,
        )  # fmt: skip
        return Response(RunSerializer(evalrun_start(asked)).data, status=202)


class RunView(_Operators, APIView):
    @extend_schema(operation_id="eval_run", parameters=[BASELINE], responses=RunDetailSerializer)
    def get(self, request: Request, run: int) -> Response:
        """One run: how far it is, and its figures so far."""
        row = evalrun_get(run)
        row.regressions = []
        if baseline := validated(BaselineQuery, request.query_params.dict()).get("baseline"):
            row.regressions = evalrun_regressions(row, evalrun_get(baseline))
        row.summary = evalrun_summary_now(row)
        return Response(RunDetailSerializer(row).data)


class BaselineQuery(Strict):
    baseline = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1)


class ResultsView(_Operators, generics.ListAPIView):
    queryset = EvalResult.objects.none()  # names the model for the schema
    serializer_class = ResultSerializer
    pagination_class = Pages

    def get_serializer_context(self) -> dict[str, Any]:
        context = super().get_serializer_context()
        if "run" not in self.kwargs:  # the schema is drawn without one
            return context
        run = evalrun_get(self.kwargs["run"])
        calibrated = judge_calibration(run).calibrated if run.judge == EvalRun.Judge.LLM else None
        pairs = {(pair.question_id, pair.variant_id): pair for pair in run.pairs.all()} if run.pairwise else {}
        return context | {"calibrated": calibrated, "pairs": pairs}

    def get_queryset(self) -> Any:
        rows = evalrun_get(self.kwargs["run"]).results.select_related("question", "variant")
        return rows.defer("sources", "trace").order_by("question__ordinal", "variant__name", "variant__revision")

    @extend_schema(operation_id="eval_run_results")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Every answer of a run with its scores, question by question."""
        return super().get(request, *args, **kwargs)


class CancelView(_Operators, APIView):
    @extend_schema(operation_id="eval_run_cancel", request=None, responses=RunSerializer)
    def post(self, request: Request, run: int) -> Response:
        """Stop a run; what it has answered stays."""
        return Response(RunSerializer(evalrun_cancel(evalrun_get(run))).data)


class ResumeView(_Operators, APIView):
    @extend_schema(operation_id="eval_run_resume", request=ResumeSerializer, responses={202: RunSerializer})
    def post(self, request: Request, run: int) -> Response:
        """Go on with a run that was cancelled, stopped, failed or killed; only what is missing is asked."""
        fields = validated(ResumeSerializer, request.data)
        return Response(RunSerializer(evalrun_resume(evalrun_get(run), user=request.user, **fields)).data, status=202)


class SetUploadSerializer(serializers.Serializer):
    file = serializers.FileField(
        help_text='JSON lines: {"id", "question", "answers": [...], "gold": {source: gain}, "category"}; also .gz.'
    )
    name = serializers.CharField(
        required=False,
        max_length=64,
        validators=[slug_validator],
        help_text="The file's if absent; a known name gets its next version.",
    )


class EvalSetsView(_Operators, generics.ListAPIView):
    queryset = EvalSet.objects.order_by("name", "-version")
    serializer_class = EvalSetSerializer
    parser_classes = [MultiPartParser]

    @extend_schema(
        operation_id="eval_set_upload", request=SetUploadSerializer, responses={201: EvalSetSerializer, 200: EvalSetSerializer}
    )
    def post(self, request: Request) -> Response:
        """Upload an eval set as JSON lines. 201: a new version; 200: the newest one holds the same questions."""
        serializer = SetUploadSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        file, name = serializer.validated_data["file"], serializer.validated_data.get("name", "")
        if file.size > settings.ADAPTRAG_MAX_UPLOAD_BYTES:
            raise TooLarge(f"{file.name} has {file.size:,} bytes; at most {settings.ADAPTRAG_MAX_UPLOAD_BYTES:,} are taken.")
        newest = EvalSet.objects.order_by("-id").values_list("pk", flat=True).first() or 0
        eval_set = evalset_upload(filename=file.name, chunks=file.chunks(), name=name, user=request.user)
        return Response(EvalSetSerializer(eval_set).data, status=201 if eval_set.pk > newest else 200)

    @extend_schema(operation_id="eval_sets")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Eval sets with their versions."""
        return super().get(request, *args, **kwargs)


class EvalSetExportView(_Operators, APIView):
    @extend_schema(
        operation_id="eval_set_export",
        parameters=[OpenApiParameter("version", OpenApiTypes.INT, description="The newest if absent.")],
        responses={(200, "application/jsonl"): OpenApiTypes.BINARY},
    )
    def get(self, request: Request, name: str) -> StreamingHttpResponse:
        """An eval set as JSON lines; uploading them gives an equal set."""
        eval_set = evalset_get(name, validated(VersionQuery, request.query_params.dict()).get("version"))
        lines = (f"{line}\n" for line in evalset_export(eval_set))
        response = StreamingHttpResponse(lines, content_type="application/jsonl; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{eval_set.name}-v{eval_set.version}.jsonl"'
        return response


class VersionQuery(Strict):
    version = serializers.IntegerField(required=False, min_value=1, max_value=2**31 - 1)
