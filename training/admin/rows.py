"""Datasets that operators look through, budgets, artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.models import Job
from agents.models import AgentVariant, ModelArtifact
from training.admin.facts import COUNTS, FILTERS, RECIPE, RESULT, facts
from training.models import SFTDataset, SFTExample, TeacherBudget
from training.selectors import interactions_behind, training_of
from training.services import DatasetRequest, dataset_drop, dataset_enqueue

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
    readonly_fields = ("examples_link", "trainings", "asked_for", "kept")
    fields = (
        "source",
        "kept",
        "examples_link",
        "trainings",
        "parent",
        "asked_for",
        "sha256",
        "path",
        "created_by",
        "created_at",
    )
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

    @display(description="What was asked for")
    def asked_for(self, dataset: SFTDataset) -> str:
        return facts(dataset.filters, FILTERS)

    @display(description="Examples by split, origin and reason")
    def kept(self, dataset: SFTDataset) -> str:
        return facts(dataset.counts, COUNTS)

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
    readonly_fields = ("size", "training_link", "made_of", "agents", "how", "figures", "came_of", "libraries")
    fields = (
        "name", "kind", "base_model", "agents", "training_link", "made_of", "parent", "figures", "how", "came_of", "libraries",
        "path", "size", "sha256", "base_sha256", "created_by", "created_at",
    )  # fmt: skip
    empty_hint = "Trainings make artifacts."

    @display(description="On disk", ordering="bytes_on_disk")
    def size(self, artifact: ModelArtifact) -> str:
        return filesizeformat(artifact.bytes_on_disk)

    @display(description="Recipe")
    def how(self, artifact: ModelArtifact) -> str:
        return facts(artifact.parameters, RECIPE if artifact.kind == ModelArtifact.Kind.ADAPTER else {})

    @display(description="Figures")
    def figures(self, artifact: ModelArtifact) -> str:
        return facts(artifact.metrics, RESULT if artifact.kind == ModelArtifact.Kind.ADAPTER else {})

    @display(description="Came of")
    def came_of(self, artifact: ModelArtifact) -> str:
        return facts(artifact.provenance, {})

    @display(description="Made with")
    def libraries(self, artifact: ModelArtifact) -> str:
        return facts(artifact.versions, {})

    @display(description="Training")
    def training_link(self, artifact: ModelArtifact) -> str:
        return link(training_of(artifact))

    @display(description="Made of")
    def made_of(self, artifact: ModelArtifact) -> str:
        run = training_of(artifact)
        if run is None:
            return "–"
        page = reverse("admin:training_sftexample_changelist")
        return format_html(
            '{}: <a class="text-link" href="{}?dataset__id__exact={}&split__exact={}">{} logged questions</a>',
            link(run.dataset), page, run.dataset_id, SFTExample.Split.TRAIN, interactions_behind(run).count(),
        )  # fmt: skip

    @display(description="Agents")
    def agents(self, artifact: ModelArtifact) -> str:
        rows = list(AgentVariant.objects.filter(artifact=artifact))
        return format_html_join(" ", "{}", ((link(row),) for row in rows)) or "none"
