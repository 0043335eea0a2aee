"""API keys: hashed, expiring, scoped, and limited to collections where the operator says so."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.signals import m2m_changed
from django.dispatch import receiver
from django.utils import timezone
from knox.models import AbstractAuthToken


class ApiKey(AbstractAuthToken):
    """A key of a user. Only its digest is stored; the key itself is shown once, when it is made."""

    class Scope(models.TextChoices):
        QUERY = "query", "query: ask and give feedback"
        OPERATOR = "operator", "operator: everything"

    name = models.CharField(max_length=100, blank=True)
    scope = models.CharField(max_length=16, choices=Scope, default=Scope.QUERY)
    # A flag of its own: were no row to mean "every collection", deleting a key's only collection would open all the others.
    restricted = models.BooleanField(default=False, help_text="The key sees the collections listed here and no others.")
    collections = models.ManyToManyField(
        "agents.Collection", blank=True, help_text="What a restricted key may see. Adding one restricts the key."
    )

    class Meta(AbstractAuthToken.Meta):
        abstract = False
        verbose_name = "API key"
        ordering = ["-created"]

    def __str__(self) -> str:
        return self.name or f"{self.token_key}…"

    @property
    def expired(self) -> bool:
        return self.expiry is not None and self.expiry <= timezone.now()


@receiver(m2m_changed, sender=ApiKey.collections.through)
def _restrict_key_with_collections(action: str, instance: Any, reverse: bool, pk_set: set | None, **_: Any) -> None:
    if action == "post_add":
        keys = ApiKey.objects.filter(pk__in=pk_set or ()) if reverse else ApiKey.objects.filter(pk=instance.pk)
        keys.update(restricted=True)
        if not reverse:
            instance.restricted = True
