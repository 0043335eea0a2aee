"""API keys: hashed, expiring, scoped."""

from __future__ import annotations

from django.db import models
from knox.models import AbstractAuthToken


class ApiKey(AbstractAuthToken):
    """A key of a user. Only its digest is stored; the key itself is shown once, when it is made."""

    class Scope(models.TextChoices):
        QUERY = "query", "query: ask and give feedback"
        OPERATOR = "operator", "operator: everything"

    name = models.CharField(max_length=100, blank=True)
    scope = models.CharField(max_length=16, choices=Scope, default=Scope.QUERY)
    collections = models.ManyToManyField("agents.Collection", blank=True, help_text="Empty: every collection.")

    class Meta(AbstractAuthToken.Meta):
        abstract = False
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name or f"{self.token_key}…"
