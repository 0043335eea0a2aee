"""The read-only base of the admin's pages about what happened, and the pages of the jobs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.jobs import job_cancel, job_retry
from adaptrag.common.models import Job
from adaptrag.common.registry import HANDLERS
from adaptrag.common.selectors import queue_status


class ReadOnlyAdmin(ModelAdmin):
    """Rows that the system writes and people only look at."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A button on jobs: the states in which it does something, what it says before it does, and the service behind it."""

    name: str
    title: str
    states: tuple[str, ...]
    effects: tuple[str, ...]
    service: Callable[[Job, Any], Job]

    def refusal(self, job: Job, allowed: bool) -> str:
        """Why the button does nothing now; empty if it does."""
        if not allowed:
            return "You may look at jobs; cancelling and retrying them takes the permission to change jobs."
        if job.state not in self.states:
            return f"It is {job.state}; only a job that is {' or '.join(self.states)} can be {self.name}."
        if self.name == "cancelled" and job.cancel_requested:
            return "Cancel is asked already; it stops at its next report."
        return ""


CANCEL = Operation(
    name="cancelled",
    title="Cancel",
    states=(Job.State.QUEUED.value, Job.State.RUNNING.value),
    effects=("A queued job never starts; a running one stops within seconds.", "What it has kept so far stays for a retry."),
    service=lambda job, user: job_cancel(job),
)
RETRY = Operation(
    name="retried",
    title="Retry",
    states=(Job.State.FAILED.value, Job.State.CANCELLED.value),
    effects=("It goes back on the queue with the same payload.", "It goes on from its last checkpoint if it has one."),
    service=job_retry,
)


def _pretty(value: Any) -> SafeString | str:
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    return format_html('<pre style="white-space: pre-wrap">{}</pre>', text) if value else "–"


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("name", "kind", "live", "attempts", "created", "took", "why")
    list_filter = ("state", "kind")
    search_fields = ("title", "kind", "error", "idempotency_key")
    ordering = ("-id",)
    actions = ("cancel_selected", "retry_selected")
    list_before_template = "admin/common/job/list_live.html"
    change_form_outer_before_template = "admin/common/job/panel.html"
    fieldsets = (
        (None, {"fields": ("kind", "queue", "created_by", "created_at", "queued_at", "started_at", "finished_at", "worker")}),
        ("Data", {"fields": ("payload_json", "checkpoint_json", "result_json", "idempotency_key")}),
    )
    readonly_fields = ("queue", "payload_json", "checkpoint_json", "result_json")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("live/", view(self.live_view), name="common_job_live"),
            path("<int:pk>/status/", view(self.status_view), name="common_job_status"),
            path("<int:pk>/cancel/", view(self.operation_view), {"operation": CANCEL}, name="common_job_cancel"),
            path("<int:pk>/retry/", view(self.operation_view), {"operation": RETRY}, name="common_job_retry"),
            *super().get_urls(),
        ]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Who may cancel and retry; nobody edits a job's row."""
        return request.user.has_perm("common.change_job")

    # The list ---------------------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        return super().get_queryset(request).select_related("created_by")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        stalled = [queue for queue in queue_status() if queue.stalled]
        response = super().changelist_view(request, {**(extra_context or {}), "stalled": stalled})
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:  # not on the question before an action, nor on its redirect
            context["live_ids"] = _live_ids(context["cl"].result_list)
        return response

    @display(description="Job", ordering="id", header=True)
    def name(self, job: Job) -> list[str]:
        return [str(job), f"no. {job.pk}"]

    @display(description="State and progress", ordering="state")
    def live(self, job: Job) -> str:
        return render_to_string("admin/common/job/cell.html", _figures(job))

    @display(description="Created", ordering="created_at")
    def created(self, job: Job) -> str:
        return f"{timezone.localtime(job.created_at):%Y-%m-%d %H:%M}"

    @display(description="Attempt", ordering="attempt")
    def attempts(self, job: Job) -> str:
        return f"{job.attempt} of {job.max_attempts}"

    @display(description="Seconds", ordering="seconds")
    def took(self, job: Job) -> str:
        return "–" if job.seconds is None else f"{job.seconds:.1f}"

    @display(description="Error")
    def why(self, job: Job) -> SafeString:
        return format_html('<span class="ar-clip2">{}</span>', job.error)

    def live_view(self, request: HttpRequest) -> HttpResponse:
        """New cells for the listed jobs that were live a moment ago (?ids=1,2), and a poller for those that still are."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        numbers = [int(number) for number in request.GET.get("ids", "").split(",") if number.isdecimal()]
        jobs = Job.objects.filter(pk__in=numbers[: self.list_per_page]).defer("log", "traceback", "payload", "result")
        context = {"cells": [_figures(job) for job in jobs], "live_ids": _live_ids(jobs)}
        return TemplateResponse(request, "admin/common/job/live.html", context)

    # One job ----------------------------------------------------------------------------------------------------------

    @display(description="Queue")
    def queue(self, job: Job) -> str:
        handler = HANDLERS.get(job.kind)
        return handler.queue if handler else "–"

    @display(description="Payload")
    def payload_json(self, job: Job) -> SafeString | str:
        return _pretty(job.payload)

    @display(description="Checkpoint")
    def checkpoint_json(self, job: Job) -> SafeString | str:
        return _pretty(job.checkpoint)

    @display(description="Result")
    def result_json(self, job: Job) -> SafeString | str:
        return _pretty(job.result)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> HttpResponse:
        context |= self._status(request, context["original"])
        return super().render_change_form(request, context, *args, **kwargs)

    def status_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """What changes on a job's page while it is queued or runs; its log only if it isn't the one that ?seen= names."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return TemplateResponse(request, "admin/common/job/status.html", self._status(request, get_object_or_404(Job, pk=pk)))

    def _status(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        allowed = self.has_operate_permission(request)
        seen = str(zlib.crc32(f"{job.log}{job.traceback}".encode()))
        waits = job.state == Job.State.QUEUED
        return {
            **_figures(job),
            "buttons": [
                (CANCEL.title, reverse("admin:common_job_cancel", args=[job.pk]), CANCEL.refusal(job, allowed)),
                (RETRY.title, reverse("admin:common_job_retry", args=[job.pk]), RETRY.refusal(job, allowed)),
            ],
            "stalled": [queue for queue in queue_status() if queue.stalled] if waits else [],
            "seen": seen,
            "log_changed": request.GET.get("seen", seen) != seen,
        }

    def operation_view(self, request: HttpRequest, pk: int, operation: Operation) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        job = get_object_or_404(Job, pk=pk)
        page = reverse("admin:common_job_change", args=[pk])
        question = Question(
            title=f"{operation.title} “{job}”?",
            effects=operation.effects,
            button=f"{operation.title} the job",  # the page's other button says "Cancel"
            danger=operation is CANCEL,
            refusal=operation.refusal(job, self.has_operate_permission(request)),
        )
        if asked := confirmation.ask(request, question, back=page, admin=self, rows=[job]):
            return asked
        self._apply(request, [job], operation)
        return redirect(page)

    # Several jobs -----------------------------------------------------------------------------------------------------

    @admin.action(description="Cancel the selected jobs", permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        return self._several(request, queryset, CANCEL, "cancel_selected")

    @admin.action(description="Retry the selected jobs", permissions=["operate"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        return self._several(request, queryset, RETRY, "retry_selected")

    def _several(self, request: HttpRequest, queryset: QuerySet[Job], operation: Operation, action: str) -> HttpResponse | None:
        jobs = list(queryset.filter(state__in=operation.states))
        if not jobs:
            states = " or ".join(operation.states)
            self.message_user(
                request, f"None of the selected jobs is {states}, so none can be {operation.name}.", messages.WARNING
            )
            return None
        question = Question(
            title=f"{operation.title} {len(jobs)} job{'s' if len(jobs) > 1 else ''}?",
            effects=operation.effects,
            button=f"{operation.title} the job{'s' if len(jobs) > 1 else ''}",
            danger=operation is CANCEL,
        )
        back = reverse("admin:common_job_changelist")
        if asked := confirmation.ask(request, question, back=back, admin=self, rows=jobs, action=action):
            return asked
        self._apply(request, jobs, operation)
        return None

    def _apply(self, request: HttpRequest, jobs: list[Job], operation: Operation) -> None:
        for job in jobs:
            try:
                now = operation.service(job, request.user)
            except AdaptRAGError as error:
                self.message_user(request, error.message, messages.ERROR)
                continue
            stops = now.state == Job.State.RUNNING and now.cancel_requested
            self.message_user(request, f"“{now}” {'stops within seconds' if stops else f'is {now.state}'}.", messages.SUCCESS)


def _live_ids(jobs: Iterable[Job]) -> str:
    return ",".join(str(job.pk) for job in jobs if job.is_live)


def _figures(job: Job) -> dict[str, Any]:
    """What the cell of a list and the head of a page show of a job. Times in seconds."""
    labels = {"queued": "warning", "running": "info", "succeeded": "success", "failed": "danger", "cancelled": "default"}
    now = timezone.now()
    return {
        "job": job,
        "label": labels[job.state],
        "percent": round(100 * job.progress),
        "elapsed": ((job.finished_at or now) - job.started_at).total_seconds() if job.started_at else None,
        "beat": (now - job.heartbeat).total_seconds() if job.heartbeat and job.state == Job.State.RUNNING else None,
    }
