"""/api/training/datasets, /runs, /distillations and /quantizations: POST and GET.

Of each but datasets also GET one, cancel, resume.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.fields import Choice, Number, Strict, Text, Whole, validated
from adaptrag.builds import quantization_quality_from
from adaptrag.common.models import Job
from evals.services import evalrun_get
from training.models import DistillationRun, QuantizationReport, SFTDataset, TrainingRun
from training.quantization import MODES
from training.quantization import PRECISIONS as MERGE_PRECISIONS
from training.recipe import PRECISIONS, Recipe
from training.services import (
    DatasetRequest,
    DistillationRequest,
    QuantizationRequest,
    TrainingRequest,
    dataset_enqueue,
    distillation_cancel,
    distillation_get,
    distillation_resume,
    distillation_start,
    quantization_cancel,
    quantization_get,
    quantization_resume,
    quantization_start,
    training_cancel,
    training_get,
    training_resume,
    training_start,
)
from training.sft import SOURCES


class _Operators:
    operator_methods = ("GET", "POST")
    site_wide = True


class DatasetStartSerializer(Strict):
    min_reward = Number(required=False, min_value=0, max_value=1, help_text="Least mean rating of an answer to learn from.")
    source = Choice(required=False, choices=list(SOURCES), help_text="Where targets may come from.")
    student = Text(required=False, max_length=300, help_text="Whose tokenizer counts: smollm2, a folder, or a hub name.")
    max_tokens = Whole(required=False, allow_null=True, min_value=16, max_value=1_000_000)
    scrub = serializers.BooleanField(required=False, allow_null=True, help_text="ADAPTRAG_SFT_SCRUB if absent.")


class DatasetSerializer(serializers.ModelSerializer):
    dataset = serializers.IntegerField(source="pk")
    parent = serializers.IntegerField(source="parent_id", allow_null=True)

    class Meta:
        model = SFTDataset
        fields = ["dataset", "source", "parent", "sha256", "filters", "counts", "created_at"]


class DatasetJobSerializer(serializers.ModelSerializer):
    job = serializers.IntegerField(source="pk")

    class Meta:
        model = Job
        fields = ["job", "state"]


class TrainingStartSerializer(Strict):
    dataset = Whole(required=False, allow_null=True, min_value=1, max_value=2**63 - 1, help_text="The newest if absent.")
    model = Text(required=False, max_length=300, help_text="smollm2, a folder, or a hub name.")
    steps = Whole(required=False, min_value=1, max_value=1_000_000)
    r = Whole(required=False, min_value=1, max_value=1024, help_text="Rank of the adapter.")
    learning_rate = Number(
        required=False,
        allow_null=True,
        min_value=1e-8,
        max_value=1,
        help_text="By the width of the model if null or absent.",
    )
    batch = Whole(required=False, min_value=1, max_value=4096, help_text="Examples a step.")
    micro = Whole(required=False, min_value=1, max_value=4096, help_text="Examples computed at once, on average.")
    qlora = serializers.BooleanField(required=False, help_text="Base model in 4 bits; takes a CUDA GPU.")
    seed = Whole(required=False, min_value=0, max_value=2**31 - 1)
    precision = Choice(required=False, choices=list(PRECISIONS))
    processes = Whole(required=False, min_value=1, max_value=1024)
    agent = Text(required=False, allow_blank=True, max_length=64, help_text="Whose candidate the result becomes.")


class TrainingResumeSerializer(Strict):
    micro = Whole(required=False, min_value=1, max_value=4096, help_text="Fewer examples at once, where memory ran out.")
    qlora = serializers.BooleanField(required=False, help_text="Base model in 4 bits; takes a CUDA GPU.")


class _JobSerializer(serializers.ModelSerializer):
    run = serializers.IntegerField(source="pk")
    state = serializers.CharField(source="job.state", default="cleaned up", help_text="Of its job.")
    job = serializers.IntegerField(source="job_id", allow_null=True)
    progress = serializers.FloatField(source="job.progress", default=None, allow_null=True, help_text="0 to 1.")
    message = serializers.CharField(source="job.message", default="")
    error = serializers.CharField(source="job.error", default="")


class TrainingSerializer(_JobSerializer):
    dataset = serializers.IntegerField(source="dataset_id")
    artifact = serializers.CharField(source="artifact.name", default=None, allow_null=True)

    class Meta:
        model = TrainingRun
        fields = [
            "run", "state", "dataset", "base_model", "recipe", "processes", "agent", "artifact", "result", "job", "progress",
            "message", "error", "created_at",
        ]  # fmt: skip


class TrainingDetailSerializer(TrainingSerializer):
    class Meta(TrainingSerializer.Meta):
        fields = [*TrainingSerializer.Meta.fields, "curve"]


class DistillationStartSerializer(Strict):
    dataset = Whole(required=False, allow_null=True, min_value=1, max_value=2**63 - 1, help_text="The whole log if absent.")
    limit = Whole(required=False, allow_null=True, min_value=1, max_value=10_000_000)
    backend = Choice(required=False, choices=["openai_compatible", "local"], help_text="ADAPTRAG_TEACHER_BACKEND if absent.")
    model = Text(required=False, allow_blank=True, max_length=300, help_text="ADAPTRAG_TEACHER_MODEL if absent.")
    options = serializers.DictField(
        required=False, help_text="Over ADAPTRAG_TEACHER_OPTIONS: base_url, api_key_env, and the prices in US dollars."
    )
    samples = Whole(required=False, min_value=1, max_value=5)
    concurrency = Whole(required=False, min_value=1, max_value=64)
    batch = serializers.BooleanField(required=False, help_text="By the provider's batch API, within a day.")


class DistillationSerializer(_JobSerializer):
    dataset = serializers.IntegerField(source="dataset_id", allow_null=True)

    class Meta:
        model = DistillationRun
        fields = [
            "run", "state", "dataset", "backend", "model", "parameters", "counts", "prompt_tokens", "completion_tokens",
            "cost_usd", "job", "progress", "message", "error", "created_at",
        ]  # fmt: skip


class QuantizationStartSerializer(Strict):
    adapter = Text(required=False, allow_blank=True, max_length=64, help_text="Name or number of the adapter's artifact.")
    model = Text(required=False, allow_blank=True, max_length=300, help_text="Where no adapter is named: smollm2, a folder.")
    mode = Choice(required=False, choices=list(MODES))
    precision = Choice(required=False, choices=list(MERGE_PRECISIONS), help_text="Of the merge.")
    register = serializers.BooleanField(required=False, help_text="Make the build a candidate.")
    agent = Text(required=False, max_length=64, help_text="Whose candidate the build becomes.")


class QuantizationSerializer(_JobSerializer):
    adapter = serializers.CharField(source="adapter.name", default=None, allow_null=True)
    artifact = serializers.CharField(source="artifact.name", default=None, allow_null=True)
    candidate = serializers.CharField(source="variant", default=None, allow_null=True)

    class Meta:
        model = QuantizationReport
        fields = [
            "run", "state", "base_model", "adapter", "mode", "precision", "agent", "artifact", "candidate", "figures",
            "unquantized", "fidelity", "quality", "job", "progress", "message", "error", "created_at",
        ]  # fmt: skip


class QuantizationQualitySerializer(Strict):
    eval_run = Whole(min_value=1, max_value=2**63 - 1, help_text="A run that asked the build and the unquantized model.")


class DatasetsView(_Operators, generics.ListAPIView):
    queryset = SFTDataset.objects.order_by("-id")
    serializer_class = DatasetSerializer

    @extend_schema(operation_id="training_datasets")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Datasets, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="training_dataset_prepare", request=DatasetStartSerializer, responses={202: DatasetJobSerializer}
    )
    def post(self, request: Request) -> Response:
        """Freeze a dataset out of the log, on the queue. 202: when the job is done, it is the newest of this list."""
        fields = validated(DatasetStartSerializer, request.data)
        return Response(DatasetJobSerializer(dataset_enqueue(DatasetRequest(user=request.user, **fields))).data, status=202)


class TrainingsView(_Operators, generics.ListAPIView):
    queryset = TrainingRun.objects.select_related("job", "artifact").order_by("-id")
    serializer_class = TrainingSerializer

    @extend_schema(operation_id="training_runs")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Trainings, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(operation_id="training_run_start", request=TrainingStartSerializer, responses={202: TrainingSerializer})
    def post(self, request: Request) -> Response:
        """Start a training on the queue. 202: watch it at /api/training/runs/{run}."""
        fields = validated(TrainingStartSerializer, request.data)
        names = ("steps", "r", "learning_rate", "batch", "micro", "seed", "precision")
        recipe = {name: fields.pop(name) for name in names if name in fields}
        recipe = replace(Recipe(), **recipe, quantized=fields.pop("qlora", False))
        run = training_start(TrainingRequest(recipe=recipe, user=request.user, **fields))
        return Response(TrainingSerializer(run).data, status=202)


class TrainingView(_Operators, APIView):
    @extend_schema(operation_id="training_run", responses=TrainingDetailSerializer)
    def get(self, request: Request, run: int) -> Response:
        """One training, with its loss curve so far."""
        return Response(TrainingDetailSerializer(training_get(run)).data)


class TrainingCancelView(_Operators, APIView):
    @extend_schema(operation_id="training_run_cancel", request=None, responses=TrainingSerializer)
    def post(self, request: Request, run: int) -> Response:
        """Stop a training; its last checkpoint stays."""
        training_cancel(training_get(run))
        return Response(TrainingSerializer(training_get(run)).data)


class TrainingResumeView(_Operators, APIView):
    @extend_schema(operation_id="training_run_resume", request=TrainingResumeSerializer, responses={202: TrainingSerializer})
    def post(self, request: Request, run: int) -> Response:
        """Go on from the last checkpoint of a training that was cancelled, failed or killed."""
        fields = validated(TrainingResumeSerializer, request.data)
        training_resume(training_get(run), micro=fields.get("micro"), quantized=fields.get("qlora"), user=request.user)
        return Response(TrainingSerializer(training_get(run)).data, status=202)


class DistillationsView(_Operators, generics.ListAPIView):
    queryset = DistillationRun.objects.select_related("job").order_by("-id")
    serializer_class = DistillationSerializer

    @extend_schema(operation_id="training_distillations")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Distillations, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="training_distillation_start", request=DistillationStartSerializer, responses={202: DistillationSerializer}
    )
    def post(self, request: Request) -> Response:
        """Have the teacher answer logged questions, on the queue."""
        fields = validated(DistillationStartSerializer, request.data)
        run = distillation_start(DistillationRequest(user=request.user, **fields))
        return Response(DistillationSerializer(run).data, status=202)


class DistillationView(_Operators, APIView):
    @extend_schema(operation_id="training_distillation", responses=DistillationSerializer)
    def get(self, request: Request, run: int) -> Response:
        """One distillation: what was asked, accepted and spent."""
        return Response(DistillationSerializer(distillation_get(run)).data)


class DistillationCancelView(_Operators, APIView):
    @extend_schema(operation_id="training_distillation_cancel", request=None, responses=DistillationSerializer)
    def post(self, request: Request, run: int) -> Response:
        """Stop it; what is answered stays."""
        distillation_cancel(distillation_get(run))
        return Response(DistillationSerializer(distillation_get(run)).data)


class DistillationResumeView(_Operators, APIView):
    @extend_schema(operation_id="training_distillation_resume", request=None, responses={202: DistillationSerializer})
    def post(self, request: Request, run: int) -> Response:
        """Go on; nothing that is answered is asked again."""
        distillation_resume(distillation_get(run), user=request.user)
        return Response(DistillationSerializer(distillation_get(run)).data, status=202)


class QuantizationsView(_Operators, generics.ListAPIView):
    queryset = QuantizationReport.objects.select_related("job", "artifact", "adapter", "variant").order_by("-id")
    serializer_class = QuantizationSerializer

    @extend_schema(operation_id="training_quantizations")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Quantizations, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="training_quantization_start", request=QuantizationStartSerializer, responses={202: QuantizationSerializer}
    )
    def post(self, request: Request) -> Response:
        """Make a build on the queue; it becomes a candidate once it is near enough to the unquantized model."""
        fields = validated(QuantizationStartSerializer, request.data)
        report = quantization_start(QuantizationRequest(user=request.user, **fields))
        return Response(QuantizationSerializer(report).data, status=202)


class QuantizationView(_Operators, APIView):
    @extend_schema(operation_id="training_quantization", responses=QuantizationSerializer)
    def get(self, request: Request, run: int) -> Response:
        """One quantization: its build's figures beside the unquantized model's."""
        return Response(QuantizationSerializer(quantization_get(run)).data)


class QuantizationCancelView(_Operators, APIView):
    @extend_schema(operation_id="training_quantization_cancel", request=None, responses=QuantizationSerializer)
    def post(self, request: Request, run: int) -> Response:
        """Stop it; what is built stays for a resume."""
        quantization_cancel(quantization_get(run))
        return Response(QuantizationSerializer(quantization_get(run)).data)


class QuantizationResumeView(_Operators, APIView):
    @extend_schema(operation_id="training_quantization_resume", request=None, responses={202: QuantizationSerializer})
    def post(self, request: Request, run: int) -> Response:
        """Go on with one that was cancelled, failed or killed."""
        quantization_resume(quantization_get(run), user=request.user)
        return Response(QuantizationSerializer(quantization_get(run)).data, status=202)


class QuantizationQualityView(_Operators, APIView):
    @extend_schema(
        operation_id="training_quantization_quality",
        request=QuantizationQualitySerializer,
        responses=QuantizationSerializer,
    )
    def post(self, request: Request, run: int) -> Response:
        """Note what an eval run found of the build against the unquantized model."""
        number = validated(QuantizationQualitySerializer, request.data)["eval_run"]
        report = quantization_quality_from(quantization_get(run), evalrun_get(number))
        return Response(QuantizationSerializer(report).data)
