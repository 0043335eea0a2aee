"""Improvements: the stages of each with their progress and links, the verdict, and the button that starts the next."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.decorators import action, display

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.models import Job
from adaptrag.common.selectors import queue_status
from adaptrag.loop import builds_admin
from adaptrag.loop.models import LoopRun, LoopStage
from adaptrag.loop.services import (
    ImproveRequest,
    improve_cancel,
    improve_plan,
    improve_resume,
    improve_settle,
    improve_start,
    stage_current,
)
from adaptrag.loop.stages import STAGES
from agents.models import ModelArtifact
from evals.models import EvalRun, EvalSet
from rewards.models import PromotionDecision
from training.models import DistillationRun, QuantizationReport, SFTDataset, TrainingRun

__all__ = ["LoopRunAdmin", "builds_admin"]

STATE_LABELS = {"running": "info", "done": "success", "failed": "danger", "cancelled": "", "waiting": "", "skipped": ""}
VERDICT_LABELS = {"promoted": "success", "rejected": "warning", "needs_human": "warning", "skipped": "", "failed": "danger"}
# Figures of the stages that are the numbers of rows.
ROWS = {
    "eval_set": ("eval set", EvalSet),
    "dataset": ("dataset", SFTDataset),
    "distillation": ("distillation", DistillationRun),
    "training": ("training", TrainingRun),
    "quantization": ("quantization", QuantizationReport),
    "artifact": ("artifact", ModelArtifact),
    "evalrun": ("eval run", EvalRun),
    "decision": ("decision", PromotionDecision),
}


@admin.register(LoopRun)
class LoopRunAdmin(ReadOnlyAdmin):
    list_display = ("title", "verdict_label", "why", "candidate", "created_at", "took")
    list_filter = ("verdict", "trigger")
    list_select_related = ("candidate",)
    fields = ("options", "data_until", "trigger", "created_by", "created_at", "finished_at")
    change_form_template = "admin/loop/looprun/page.html"
    actions_list = ("improve",)
    empty_hint = "An improvement trains on what people corrected, and a gate judges the result. Press “Improve now”."

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/status/", view(self.status_view), name="loop_looprun_status"),
            path("<int:pk>/cancel/", view(self.cancel_view), name="loop_looprun_cancel"),
            path("<int:pk>/resume/", view(self.resume_view), name="loop_looprun_resume"),
            *super().get_urls(),
        ]

    def has_start_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("loop.add_looprun")

    @display(description="Improvement", ordering="id")
    def title(self, run: LoopRun) -> str:
        return str(run)

    @display(description="Verdict", ordering="verdict", label=VERDICT_LABELS | STATE_LABELS)
    def verdict_label(self, run: LoopRun) -> tuple[str, str]:
        return (run.verdict, run.get_verdict_display()) if run.verdict else (run.state, run.get_state_display())

    @display(description="Because")
    def why(self, run: LoopRun) -> str:
        return run.reason if len(run.reason) <= 110 else f"{run.reason[:110]}…"

    @display(description="Took")
    def took(self, run: LoopRun) -> str:
        return _minutes((run.finished_at - run.created_at).total_seconds()) if run.finished_at else "–"

    @action(description="Improve now", icon="autorenew", url_path="improve", permissions=["start"])
    def improve(self, request: HttpRequest) -> HttpResponse:
        back = reverse("admin:loop_looprun_changelist")
        asked = ImproveRequest(trigger=LoopRun.Trigger.ADMIN, user=request.user)
        try:
            plan = improve_plan(asked)
            effects = [f"{STAGES[one['stage']].title} ({one['state']}): {one['detail']}" for one in plan.stages]
            question = Question(
                title="Improve now?", effects=effects, button="Start the improvement", danger=False, refusal=plan.skipped
            )
            if page := confirmation.ask(request, question, back=back, admin=self):
                return page
            run = improve_start(asked)
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        self.log_addition(request, run, "Started.")
        return redirect(reverse("admin:loop_looprun_change", args=[run.pk]))

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        run = self.get_object(request, object_id)
        shown = {"status": render_to_string("admin/loop/looprun/status.html", self._status(run), request)} if run else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def status_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The head of the page while it runs."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = get_object_or_404(LoopRun, pk=pk)
        return TemplateResponse(request, "admin/loop/looprun/status.html", self._status(run))

    def _status(self, run: LoopRun) -> dict[str, Any]:
        run = improve_settle(run)
        live = run.state == LoopRun.State.RUNNING
        current = stage_current(run) if live else None
        waits = current is not None and current.job is not None and current.job.state == Job.State.QUEUED
        key, text = self.verdict_label(run)
        return {
            "run": run,
            "verdict": text,
            "label": (VERDICT_LABELS | STATE_LABELS)[key],
            "live": live,
            "resumable": run.state in (LoopRun.State.FAILED, LoopRun.State.CANCELLED),
            "stages": [_row(stage) for stage in run.stages.select_related("job")],
            "stalled": [queue for queue in queue_status() if queue.stalled] if waits else [],
        }

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        effect = "Its stage stops within seconds; what it has kept stays."
        return self._asked(request, pk, "Cancel", effect, lambda run: improve_cancel(run))

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        effect = "It goes on at the stage that did not come to its end, from what that has kept."
        return self._asked(request, pk, "Resume", effect, lambda run: improve_resume(run, user=request.user))

    def _asked(self, request: HttpRequest, pk: int, verb: str, effect: str, service: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = get_object_or_404(LoopRun, pk=pk)
        refusal = "" if self.has_start_permission(request) else "It takes the permission to add improvements."
        back = reverse("admin:loop_looprun_change", args=[pk])
        question = Question(
            title=f"{verb} {run}?", effects=[effect], button=f"{verb} the run", danger=verb == "Cancel", refusal=refusal
        )
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            service(run)
        except AdaptRAGError as error:
            messages.error(request, error.message)
        return redirect(back)


def _row(stage: LoopStage) -> dict[str, Any]:
    running = stage.state == LoopStage.State.RUNNING and stage.job is not None
    return {
        "stage": stage,
        "title": STAGES[stage.name].title,
        "label": STATE_LABELS[stage.state],
        "took": "" if stage.seconds is None else _minutes(stage.seconds),
        "percent": round(100 * stage.job.progress) if running else None,
        "message": stage.job.message if running else "",
        "links": [_link(name, stage.figures[name]) for name in ROWS if stage.figures.get(name)],
    }


def _link(name: str, number: int) -> tuple[str, str]:
    """Words, and the address of the row's page; empty where it has none."""
    title, model = ROWS[name]
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
    return f"{title} {number}", reverse(page, args=[number]) if admin.site.is_registered(model) else ""


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
