"""Datasets that operators look through, trainings with their loss curve, distillations, budgets, artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.models import Job
from agents.models import AgentVariant, ModelArtifact
from training.models import DistillationRun, SFTDataset, SFTExample, TeacherAnswer, TeacherBudget, TrainingRun
from training.services import (
    DatasetRequest,
    DistillationRequest,
    TrainingRequest,
    dataset_drop,
    dataset_enqueue,
    distillation_start,
    training_cancel,
    training_resume,
    training_start,
)

STATE_LABELS = {"queued": "warning", "running": "info", "succeeded": "success", "failed": "danger", "cancelled": ""}
LIVE = [str(state) for state in Job.LIVE]


def link(row: Any, text: str = "") -> str:
    """A link to a row's page, or a dash."""
    if row is None:
        return "–"
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return format_html('<a class="text-link" href="{}">{}</a>', url, text or str(row))


class _Starting(ReadOnlyAdmin):
    """Rows that the system writes, with a button that starts the next."""

    start_title = ""
    start_effects: Sequence[str] = ()
    actions_list = ("start",)

    @action(description="Start", icon="play_arrow", url_path="start", permissions=["start"])
    def start(self, request: HttpRequest) -> HttpResponse:
        back = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")
        question = Question(title=self.start_title, effects=self.start_effects, button="Start", danger=False)
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            row = self.started(request)
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        self.log_addition(request, row, "Started.")
        return redirect(reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk]))

    def started(self, request: HttpRequest) -> Any:
        raise NotImplementedError

    def has_start_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.add_{self.opts.model_name}")


@admin.register(SFTDataset)
class SFTDatasetAdmin(_Starting):
    list_display = ("name", "source", "train", "validation", "left_out", "examples_link", "created_at")
    list_filter = ("source",)
    readonly_fields = ("examples_link", "trainings")
    empty_hint = "A dataset is made of rated answers and corrections. Rate some answers first, or take the built-in questions."
    start_title = "Prepare a dataset from the log?"
    start_effects = (
        "Corrections, answers rated 0.8 or more, and accepted answers of a teacher become examples.",
        "The dataset is frozen; every question that is left out says why.",
    )

    def started(self, request: HttpRequest) -> Job:
        return dataset_enqueue(DatasetRequest(user=request.user))

    @display(description="Dataset", ordering="id")
    def name(self, dataset: SFTDataset) -> str:
        return str(dataset) + (f", from {dataset.parent}" if dataset.parent_id else "")

    @display(description="To train on")
    def train(self, dataset: SFTDataset) -> int:
        return dataset.counts.get("train", 0)

    @display(description="To validate")
    def validation(self, dataset: SFTDataset) -> int:
        return dataset.counts.get("validation", 0)

    @display(description="Left out")
    def left_out(self, dataset: SFTDataset) -> int:
        return sum(dataset.counts.get("left_out", {}).values())

    @display(description="Examples")
    def examples_link(self, dataset: SFTDataset) -> str:
        url = f"{reverse('admin:training_sftexample_changelist')}?dataset__id__exact={dataset.pk}"
        return format_html('<a class="text-link" href="{}">look through them</a>', url)

    @display(description="Trainings")
    def trainings(self, dataset: SFTDataset) -> str:
        return format_html_join(" ", "{}", ((link(run),) for run in dataset.trainings.all())) or "none"


@admin.register(SFTExample)
class SFTExampleAdmin(ReadOnlyAdmin):
    list_display = ("question", "target", "split", "origin", "reward", "tokens", "why", "interaction_link")
    list_filter = ("split", "origin", "dataset")
    search_fields = ("question", "target", "reason")
    list_select_related = ("dataset", "interaction")
    readonly_fields = ("interaction_link",)
    actions = ("drop",)
    empty_hint = "Prepare a dataset first."

    @display(description="Left out, or changed, because")
    def why(self, example: SFTExample) -> str:
        return example.reason or example.note

    @display(description="Interaction")
    def interaction_link(self, example: SFTExample) -> str:
        return link(example.interaction, "look")

    @admin.action(description="Drop the selected examples (makes another dataset)", permissions=["drop"])
    def drop(self, request: HttpRequest, queryset: QuerySet[SFTExample]) -> HttpResponse | None:
        datasets = set(queryset.values_list("dataset", flat=True))
        if len(datasets) != 1:
            self.message_user(request, "Choose examples of one dataset.", messages.WARNING)
            return None
        try:
            child = dataset_drop(SFTDataset.objects.get(pk=datasets.pop()), [row.pk for row in queryset], user=request.user)
        except AdaptRAGError as error:
            self.message_user(request, error.message, messages.ERROR)
            return None
        self.message_user(request, f"Made {child} without them; the first stays as it is.", messages.SUCCESS)
        return redirect(reverse("admin:training_sftdataset_change", args=[child.pk]))

    def has_drop_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("training.add_sftdataset")


@admin.register(TrainingRun)
class TrainingRunAdmin(_Starting):
    list_display = ("title", "dataset_link", "base_model", "state", "progress", "loss", "artifact_link", "created_at")
    list_select_related = ("dataset", "job", "artifact")
    readonly_fields = ("dataset_link", "artifact_link")
    fields = (
        "dataset_link",
        "artifact_link",
        "base_model",
        "recipe",
        "processes",
        "agent",
        "result",
        "created_by",
        "created_at",
    )
    change_form_template = "admin/training/trainingrun/page.html"
    empty_hint = "A training fine-tunes a model on a dataset; its result is a candidate that you may put into service."
    start_title = "Train an adapter on the newest dataset?"
    start_effects = (
        "15 steps of the shipped model, on the queue “long”; a dataset is prepared first where there is none.",
        "The result is a candidate of the agent lora_rag, which takes no traffic until you say so.",
        "Other models and lengths: manage.py train_lora, or POST /api/training/runs.",
    )

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/status/", view(self.status_view), name="training_trainingrun_status"),
            path("<int:pk>/cancel/", view(self.cancel_view), name="training_trainingrun_cancel"),
            path("<int:pk>/resume/", view(self.resume_view), name="training_trainingrun_resume"),
            *super().get_urls(),
        ]

    def started(self, request: HttpRequest) -> TrainingRun:
        return training_start(TrainingRequest(user=request.user))

    @display(description="Training", ordering="id")
    def title(self, run: TrainingRun) -> str:
        return str(run)

    @display(description="Dataset")
    def dataset_link(self, run: TrainingRun) -> str:
        return link(run.dataset)

    @display(description="Artifact")
    def artifact_link(self, run: TrainingRun) -> str:
        return link(run.artifact)

    @display(description="State", label=STATE_LABELS)
    def state(self, run: TrainingRun) -> str:
        return run.job.state if run.job else "succeeded" if run.artifact_id else "cleaned up"

    @display(description="Progress")
    def progress(self, run: TrainingRun) -> str:
        return f"{run.job.progress:.0%} {run.job.message}" if run.job and run.job.is_live else ""

    @display(description="Loss, validation")
    def loss(self, run: TrainingRun) -> str:
        figures = [run.result.get(name) for name in ("train_loss", "validation_loss")]
        return ", ".join(f"{one:.3f}" for one in figures if one is not None) or "–"

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        run = self.get_object(request, object_id)
        shown = (
            {"status": render_to_string("admin/training/trainingrun/status.html", self._status(run), request)} if run else {}
        )
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def status_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The head of the page while it trains, with the loss curve so far."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return TemplateResponse(
            request, "admin/training/trainingrun/status.html", self._status(get_object_or_404(TrainingRun, pk=pk))
        )

    def _status(self, run: TrainingRun) -> dict[str, Any]:
        state = self.state(run)
        return {
            "run": run,
            "state": state,
            "label": STATE_LABELS.get(state, ""),
            "live": state in LIVE,
            "percent": round(100 * run.job.progress) if run.job else 100,
            "curve": curve_lines(run.curve),
            "last": run.curve[-1] if run.curve else None,
        }

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "Cancel", "It stops within seconds; its last checkpoint stays.", training_cancel)

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "Resume", "It goes on from its last checkpoint.", training_resume)

    def _asked(self, request: HttpRequest, pk: int, verb: str, effect: str, service: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = get_object_or_404(TrainingRun, pk=pk)
        refusal = "" if self.has_start_permission(request) else "It takes the permission to add trainings."
        back = reverse("admin:training_trainingrun_change", args=[pk])
        question = Question(
            title=f"{verb} {run}?", effects=[effect], button=f"{verb} the training", danger=verb == "Cancel", refusal=refusal
        )
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            service(run)
        except AdaptRAGError as error:
            messages.error(request, error.message)
        return redirect(back)


WIDTH, HEIGHT = 600, 180


def curve_lines(curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The loss curve as points of SVG polylines, and its bounds. Empty for fewer than two points."""
    series = {
        name: [(point["step"], point[f"{name}_loss"]) for point in curve if point.get(f"{name}_loss") is not None]
        for name in ("train", "validation")
    }
    both = [point for points in series.values() for point in points]
    if len(both) < 2:
        return {}
    last, highest = max(step for step, _ in both), max(loss for _, loss in both) or 1.0
    lines = {
        name: " ".join(f"{WIDTH * step / last:.1f},{HEIGHT * (1 - loss / highest):.1f}" for step, loss in points)
        for name, points in series.items()
    }
    return {**lines, "highest": highest, "steps": last, "width": WIDTH, "height": HEIGHT}


class TeacherAnswerInline(TabularInline):
    model = TeacherAnswer
    fields = ("interaction", "text", "accepted", "reason", "cost_usd")
    readonly_fields = fields
    extra = 0
    max_num = 0
    can_delete = False
    per_page = 50
    show_change_link = False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(DistillationRun)
class DistillationRunAdmin(_Starting):
    list_display = ("title", "model", "state", "asked", "accepted", "cost", "budget", "created_at")
    list_select_related = ("job", "budget")
    inlines = (TeacherAnswerInline,)
    empty_hint = "A teacher is a larger model whose answers a small one learns from. Set ADAPTRAG_TEACHER_MODEL first."
    start_title = "Ask the teacher about the log's questions?"
    start_effects = (
        "The model of ADAPTRAG_TEACHER_MODEL answers every logged question that it was not asked before.",
        "Questions and passages go to its server. It stops where the budget is spent.",
    )

    def started(self, request: HttpRequest) -> DistillationRun:
        return distillation_start(DistillationRequest(user=request.user))

    @display(description="Distillation", ordering="id")
    def title(self, run: DistillationRun) -> str:
        return str(run)

    @display(description="State", label=STATE_LABELS)
    def state(self, run: DistillationRun) -> str:
        return run.job.state if run.job else "cleaned up"

    @display(description="Asked")
    def asked(self, run: DistillationRun) -> int:
        return run.counts.get("asked", 0)

    @display(description="Accepted")
    def accepted(self, run: DistillationRun) -> int:
        return run.counts.get("accepted", 0)

    @display(description="USD", ordering="cost_usd")
    def cost(self, run: DistillationRun) -> str:
        return f"{run.cost_usd:.4f}"


@admin.register(TeacherBudget)
class TeacherBudgetAdmin(ModelAdmin):
    list_display = ("name", "limit_usd", "spent_usd", "updated_at")
    fields = ("name", "limit", "spent")
    readonly_fields = ("spent",)

    @display(description="Limit, USD", ordering="limit")
    def limit_usd(self, budget: TeacherBudget) -> str:
        return f"{budget.limit / 1e6:.2f}"

    @display(description="Spent, USD", ordering="spent")
    def spent_usd(self, budget: TeacherBudget) -> str:
        return f"{budget.spent / 1e6:.4f}"

    def save_model(self, request: HttpRequest, obj: TeacherBudget, form: Any, change: bool) -> None:
        # Only what was edited: `spent` may have risen since the page was opened.
        obj.save(update_fields=[*form.changed_data, "updated_at"] if change else None)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ModelArtifact)
class ModelArtifactAdmin(ReadOnlyAdmin):
    list_display = ("name", "kind", "base_model", "size", "training_link", "agents", "created_at")
    list_filter = ("kind",)
    readonly_fields = ("training_link", "agents")
    empty_hint = "Trainings make artifacts."

    @display(description="On disk", ordering="bytes_on_disk")
    def size(self, artifact: ModelArtifact) -> str:
        return filesizeformat(artifact.bytes_on_disk)

    @display(description="Training")
    def training_link(self, artifact: ModelArtifact) -> str:
        return link(TrainingRun.objects.filter(artifact=artifact).first())

    @display(description="Agents")
    def agents(self, artifact: ModelArtifact) -> str:
        rows = list(AgentVariant.objects.filter(artifact=artifact))
        return format_html_join(" ", "{}", ((link(row),) for row in rows)) or "none"
