"""The job row: one concrete record of every long task."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone


class Job(models.Model):
    """A long task. queued -> running -> succeeded | failed | cancelled; a lost worker sends it back to queued.

    States change only through adaptrag.common.jobs, with conditional updates fenced by `attempt`.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    LIVE = (State.QUEUED, State.RUNNING)
    ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)

    kind = models.CharField(max_length=64, help_text="Name of the registered handler.")
    title = models.CharField(max_length=200, blank=True)
    payload = models.JSONField(default=dict, blank=True)
    result = models.JSONField(null=True, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED, db_index=True)
    progress = models.FloatField(default=0, help_text="0 to 1.")
    message = models.CharField(max_length=500, blank=True)
    attempt = models.PositiveIntegerField(default=0, help_text="Starts so far; every write is fenced by it.")
    max_attempts = models.PositiveIntegerField(
        default=3, help_text="Starts after which a lost job is failed, not queued again."
    )
    heartbeat = models.DateTimeField(null=True, blank=True)
    worker = models.CharField(max_length=200, blank=True, help_text="Host and process that hold the lease.")
    checkpoint = models.JSONField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    log = models.TextField(blank=True)
    error = models.TextField(blank=True, help_text="Why it failed, in words.")
    traceback = models.TextField(blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True, db_index=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField(default=timezone.now, help_text="When it was last put on the queue.")
    started_at = models.DateTimeField(null=True, blank=True, help_text="Start of the newest attempt.")
    finished_at = models.DateTimeField(null=True, blank=True)
    seconds = models.FloatField(null=True, blank=True, help_text="From start to end of the newest attempt.")

    class Meta:
        ordering = ["-id"]
        constraints = [
            # One live job a key: asking again for work that is queued or running returns that job.
            models.UniqueConstraint(
                fields=["idempotency_key"],
                condition=~models.Q(idempotency_key="") & models.Q(state__in=["queued", "running"]),
                name="job_key_live_once",
            )
        ]

    def __str__(self) -> str:
        return self.title or f"{self.kind} {self.pk}"

    @property
    def is_live(self) -> bool:
        return self.state in self.LIVE
