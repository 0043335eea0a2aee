"""One cycle of improvement and its stages."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from adaptrag.common.models import Job
from agents.models import AgentVariant


class LoopRun(models.Model):
    """A cycle: what was asked for, its verdict and why. running -> done | failed | cancelled; resuming sets it running again.

    `adaptrag.loop.services` is the way to change one.
    """

    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Verdict(models.TextChoices):
        PROMOTED = "promoted", "promoted to canary"
        REJECTED = "rejected"
        NEEDS_HUMAN = "needs_human", "needs a person"
        SKIPPED = "skipped"
        FAILED = "failed"

    class Trigger(models.TextChoices):
        COMMAND = "command"
        ADMIN = "admin"
        API = "api", "API"
        SCHEDULE = "schedule"

    state = models.CharField(max_length=16, choices=State, default=State.RUNNING)
    trigger = models.CharField("started by", max_length=16, choices=Trigger, default=Trigger.COMMAND)
    options = models.JSONField(default=dict, help_text="What was asked for, settings filled in.")
    verdict = models.CharField(max_length=16, choices=Verdict, blank=True)
    reason = models.TextField(blank=True, help_text="Why, and what to collect where that is missing.")
    candidate = models.ForeignKey(AgentVariant, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    incumbent = models.ForeignKey(AgentVariant, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    data_until = models.DateTimeField(null=True, blank=True, help_text="Ratings up to this moment were looked at.")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "improvement"
        constraints = [
            models.UniqueConstraint(fields=["state"], condition=models.Q(state="running"), name="looprun_one_running")
        ]

    def __str__(self) -> str:
        return f"improvement {self.pk}"


class LoopStage(models.Model):
    """A step of a run. `figures` holds what a resumed stage goes on from, and what the page links to."""

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        DONE = "done"
        SKIPPED = "skipped"
        FAILED = "failed"
        CANCELLED = "cancelled"

    ENDED = (State.DONE, State.SKIPPED)

    run = models.ForeignKey(LoopRun, on_delete=models.CASCADE, related_name="stages")
    name = models.CharField(max_length=16)
    ordinal = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    detail = models.TextField(blank=True)
    figures = models.JSONField(default=dict)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    started_at = models.DateTimeField(null=True, blank=True)
    seconds = models.FloatField(null=True, blank=True, help_text="Over all its attempts that came to an end.")

    class Meta:
        ordering = ["run", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="loopstage_once")]

    def __str__(self) -> str:
        return f"{self.name} of {self.run}"
