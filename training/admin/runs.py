"""Trainings with their loss curve and distillations in the admin: started by a form, watched, cancelled, resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import TabularInline
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from agents.llm.weights import DEFAULT_MODEL
from training.admin.curve import loss_curve
from training.admin.facts import RECIPE, RESULT, facts
from training.admin.rows import LIVE, STATE_LABELS, link
from training.models import DistillationRun, SFTDataset, TeacherAnswer, TrainingRun
from training.recipe import Recipe
from training.services import (
    DistillationRequest,
    distillation_cancel,
    distillation_resume,
    distillation_start,
    training_cancel,
    training_prepare,
    training_request,
    training_resume,
    training_start,
)
from training.sft import SOURCES

DEFAULT = Recipe()


def _whole(low: int, high: int, **options: Any) -> forms.IntegerField:
    return forms.IntegerField(min_value=low, max_value=high, widget=UnfoldAdminIntegerFieldWidget, **options)


class TrainingForm(forms.Form):
    dataset = forms.ModelChoiceField(
        queryset=SFTDataset.objects.all(), required=False, empty_label="a new one, prepared from the log first",
        widget=UnfoldAdminSelectWidget,
    )  # fmt: skip
    source = forms.ChoiceField(
        choices=[(name, name) for name in SOURCES], widget=UnfoldAdminSelectWidget,
        help_text="Where the targets of a new dataset come from.",
    )  # fmt: skip
    model = forms.CharField(
        max_length=300, initial=DEFAULT_MODEL, widget=UnfoldAdminTextInputWidget,
        help_text="smollm2, a folder, or a hub name such as distilgpt2.",
    )  # fmt: skip
    steps = _whole(1, 1_000_000, initial=DEFAULT.steps)
    r = _whole(1, 1024, initial=DEFAULT.r, label="Rank")
    learning_rate = forms.FloatField(
        required=False, min_value=1e-8, max_value=1, help_text="Empty: by the width of the model.",
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}),
    )  # fmt: skip
    micro = _whole(
        1,
        4096,
        initial=DEFAULT.micro,
        label="Examples at once",
        help_text="On average; long ones fewer. A lower number takes less memory.",
    )
    agent = forms.CharField(
        required=False, max_length=64, initial="lora_rag", widget=UnfoldAdminTextInputWidget,
        help_text="Agent whose candidate the result becomes; it takes no traffic until you say so. Empty for none.",
    )  # fmt: skip


class DistillationForm(forms.Form):
    dataset = forms.ModelChoiceField(
        queryset=SFTDataset.objects.all(), required=False, empty_label="the questions of the log",
        widget=UnfoldAdminSelectWidget,
    )  # fmt: skip
    limit = _whole(1, 10_000_000, required=False, help_text="At most so many questions, the newest first; empty for all.")
    model = forms.CharField(
        required=False, max_length=300, widget=UnfoldAdminTextInputWidget,
        help_text="Empty: ADAPTRAG_TEACHER_MODEL. Server and prices are those of ADAPTRAG_TEACHER_OPTIONS.",
    )  # fmt: skip
    samples = _whole(1, 5, initial=1, help_text="2 asks twice and keeps what agrees with itself.")
    batch = forms.BooleanField(
        required=False, widget=UnfoldBooleanSwitchWidget, help_text="By the provider's batch API: within a day."
    )


class _RunAdmin(ReadOnlyAdmin):
    """Rows with a job: a form that starts one, and a page that shows how far it is, with cancel and resume."""

    actions_list = ("start",)
    change_form_template = "admin/training/run.html"
    noun = ""
    start_form: ClassVar[type[forms.Form]]
    start_title = start_intro = cancel_effect = resume_effect = ""
    status_template = ""
    cancel: ClassVar[Callable[[Any], Any]]
    resume: ClassVar[Callable[..., Any]]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        name = self.opts.model_name
        own = [
            path(f"<int:pk>/{verb}/", view(getattr(self, f"{verb}_view")), name=f"training_{name}_{verb}")
            for verb in ("status", "cancel", "resume")
        ]
        return [*own, *super().get_urls()]

    @action(description="Start", icon="play_arrow", url_path="start", permissions=["start"])
    def start(self, request: HttpRequest) -> HttpResponse:
        back = reverse(f"admin:training_{self.opts.model_name}_changelist")
        form = self.start_form(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                row = self.started(request, dict(form.cleaned_data))
            except AdaptRAGError as error:
                field = error.details.get("field")
                form.add_error(field if field in form.fields else None, error.message)
            else:
                self.log_addition(request, row, "Started.")
                return redirect(reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk]))
        words = {"title": self.start_title, "intro": self.start_intro, "button": "Start", "icon": "play_arrow", "back": back}
        context = {**self.admin_site.each_context(request), "form": form, **words}
        return TemplateResponse(request, "admin/evals/form.html", context)

    def started(self, request: HttpRequest, values: dict[str, Any]) -> Any:
        raise NotImplementedError

    def has_start_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(f"training.add_{self.opts.model_name}")

    @display(description="State", label=STATE_LABELS)
    def state(self, run: Any) -> str:
        return run.job.state if run.job else "cleaned up"

    @display(description="Progress")
    def progress(self, run: Any) -> str:
        return f"{run.job.progress:.0%} {run.job.message}" if run.job and run.job.is_live else ""

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        run = self.get_object(request, object_id)
        shown = {"status": render_to_string(self.status_template, self.status(run), request)} if run else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def status_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The head of the page while it runs."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return TemplateResponse(request, self.status_template, self.status(get_object_or_404(self.model, pk=pk)))

    def status(self, run: Any) -> dict[str, Any]:
        state = self.state(run)
        return {
            "run": run,
            "state": state,
            "label": STATE_LABELS.get(state, ""),
            "live": state in LIVE,
            "percent": round(100 * run.job.progress) if run.job else 100,
        }

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "Cancel", self.cancel_effect, type(self).cancel)

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "Resume", self.resume_effect, type(self).resume)

    def _asked(self, request: HttpRequest, pk: int, verb: str, effect: str, service: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = get_object_or_404(self.model, pk=pk)
        refusal = "" if self.has_start_permission(request) else f"It takes the permission to add {self.noun}s."
        back = reverse(f"admin:training_{self.opts.model_name}_change", args=[pk])
        question = Question(
            title=f"{verb} {run}?", effects=[effect], button=f"{verb} the {self.noun}", danger=verb == "Cancel", refusal=refusal
        )
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            service(run)
        except AdaptRAGError as error:
            messages.error(request, error.message)
        return redirect(back)


@admin.register(TrainingRun)
class TrainingRunAdmin(_RunAdmin):
    list_display = ("title", "dataset_link", "base_model", "state", "progress", "loss", "artifact_link", "created_at")
    list_select_related = ("dataset", "job", "artifact")
    readonly_fields = ("dataset_link", "artifact_link", "how", "outcome")
    fields = (
        "outcome", "dataset_link", "artifact_link", "base_model", "agent", "how", "processes", "launcher", "created_by",
        "created_at",
    )  # fmt: skip
    empty_hint = "A training fine-tunes a model on a dataset; its result is a candidate that you may put into service."
    noun = "training"
    start_form = TrainingForm
    start_title = "Train an adapter"
    start_intro = "It runs on the queue “long”, some minutes for 15 steps of the shipped model."
    status_template = "admin/training/trainingrun/status.html"
    cancel, cancel_effect = training_cancel, "It stops within seconds; its last checkpoint stays."
    resume, resume_effect = training_resume, "It goes on from its last checkpoint."

    def started(self, request: HttpRequest, values: dict[str, Any]) -> Any:
        dataset, source = values.pop("dataset"), values.pop("source")
        if dataset is None:
            return training_prepare(values, source=source, user=request.user)
        return training_start(training_request(values, dataset=dataset.pk, user=request.user))

    @display(description="Training", ordering="id")
    def title(self, run: TrainingRun) -> str:
        return str(run)

    @display(description="Dataset")
    def dataset_link(self, run: TrainingRun) -> str:
        return link(run.dataset)

    @display(description="Artifact")
    def artifact_link(self, run: TrainingRun) -> str:
        return link(run.artifact)

    @display(description="Recipe")
    def how(self, run: TrainingRun) -> str:
        return facts(run.recipe, RECIPE)

    @display(description="Result")
    def outcome(self, run: TrainingRun) -> str:
        return facts(run.result, RESULT)

    @display(description="State", label=STATE_LABELS)
    def state(self, run: TrainingRun) -> str:
        return run.job.state if run.job else "succeeded" if run.artifact_id else "cleaned up"

    @display(description="Loss, validation")
    def loss(self, run: TrainingRun) -> str:
        figures = [run.result.get(name) for name in ("train_loss", "validation_loss")]
        return ", ".join(f"{one:.3f}" for one in figures if one is not None) or "–"

    def status(self, run: TrainingRun) -> dict[str, Any]:
        steps = run.recipe.get("steps", DEFAULT.steps)
        curve = loss_curve(run.curve, steps, run.result.get("best_step"))
        return super().status(run) | {"curve": curve, "steps": steps, "last": run.curve[-1] if run.curve else None}


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
class DistillationRunAdmin(_RunAdmin):
    list_display = ("title", "model", "state", "progress", "asked", "accepted", "cost", "budget", "created_at")
    list_select_related = ("job", "budget")
    inlines = (TeacherAnswerInline,)
    empty_hint = "A teacher is a larger model whose answers a small one learns from. Set ADAPTRAG_TEACHER_MODEL first."
    noun = "distillation"
    start_form = DistillationForm
    start_title = "Ask the teacher"
    status_template = "admin/training/distillationrun/status.html"
    cancel, cancel_effect = distillation_cancel, "Calls under way are awaited and kept; a batch stays with its provider."
    resume, resume_effect = distillation_resume, "It asks what is not answered; nothing that is paid for is asked again."

    @property
    def start_intro(self) -> str:
        teacher = settings.ADAPTRAG_TEACHER_MODEL or "none is set in ADAPTRAG_TEACHER_MODEL"
        return (
            f"The teacher ({teacher}) answers what it was not asked before. Questions and passages go to its server. "
            "It stops where the budget is spent."
        )

    def started(self, request: HttpRequest, values: dict[str, Any]) -> DistillationRun:
        dataset = values.pop("dataset")
        return distillation_start(DistillationRequest(dataset=dataset and dataset.pk, user=request.user, **values))

    @display(description="Distillation", ordering="id")
    def title(self, run: DistillationRun) -> str:
        return str(run)

    @display(description="Asked")
    def asked(self, run: DistillationRun) -> int:
        return run.counts.get("asked", 0)

    @display(description="Accepted")
    def accepted(self, run: DistillationRun) -> int:
        return run.counts.get("accepted", 0)

    @display(description="USD", ordering="cost_usd")
    def cost(self, run: DistillationRun) -> str:
        return f"{run.cost_usd:.4f}"
