"""What the log adds up to, for pages that must not scan it."""

from __future__ import annotations

from django.db import models

from agents.models import AgentVariant


class LogSums(models.Model):
    """What the log adds up to in an hour, a day or a month of UTC, for a category and a variant (rewards.rollup.sums.Sums).

    Written by rewards.services.rollup alone. LogChange holds what is not in it yet.
    """

    span = models.CharField(max_length=1, choices=[("h", "hour"), ("d", "day"), ("m", "month")])
    start = models.DateTimeField()
    category = models.CharField(max_length=32)
    variant = models.ForeignKey(AgentVariant, on_delete=models.CASCADE, related_name="+")
    interactions = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    ratings = models.BigIntegerField(default=0)
    n = models.BigIntegerField(default=0, help_text="Rated answers that count.")
    total = models.FloatField(default=0)
    squares = models.FloatField(default=0)
    latency = models.TextField(default="{}", help_text="JSON: {bin: answers}.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["span", "start", "category", "variant"], name="log_sums_once")]

    def __str__(self) -> str:
        return f"{self.span} {self.start:%Y-%m-%d %H}, {self.category}, variant {self.variant_id}"


class LogChange(models.Model):
    """A change of the log that LogSums does not hold yet, written in the transaction that made it."""

    at = models.DateTimeField(help_text="When the question was asked.")
    category = models.CharField(max_length=32)
    variant = models.ForeignKey(
        AgentVariant, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    interactions = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    ratings = models.IntegerField(default=0)
    n = models.IntegerField(default=0)
    total = models.FloatField(default=0)
    squares = models.FloatField(default=0)
    bin = models.IntegerField(null=True, help_text="Of the latency, where there is an answer.")

    def __str__(self) -> str:
        return f"{self.at}, {self.category}, variant {self.variant_id}"
