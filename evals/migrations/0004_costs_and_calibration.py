from django.db import migrations, models


def summed(apps, schema_editor):
    apps.get_model("evals", "EvalPair").objects.update(prompt_tokens=models.F("prompt_tokens") + models.F("completion_tokens"))


def told_apart(apps, schema_editor):
    """What was read from an empty model name and from the question is now written down."""
    results = apps.get_model("evals", "EvalResult").objects
    results.filter(error__isnull=False, model="").update(failed=True)
    for result in results.filter(judgement__isnull=False).select_related("question").iterator():
        result.judgement["references"] = bool(result.question.answers)
        result.save(update_fields=["judgement"])


class Migration(migrations.Migration):
    dependencies = [("evals", "0003_policy_estimate")]

    operations = [
        migrations.RunPython(summed, migrations.RunPython.noop),
        migrations.AddField("evalquestion", "unanswerable", models.BooleanField(default=False)),
        migrations.AddField(
            "evalrun", "judge_blind", models.BooleanField(default=False, help_text="The judge is not shown the gold answers.")
        ),
        migrations.AddField(
            "evalrun",
            "retried_tokens",
            models.PositiveBigIntegerField(default=0, help_text="Paid for items that failed and were asked again."),
        ),
        migrations.AddField("evalrun", "retried_usd", models.FloatField(default=0)),
        migrations.AddField(
            "evalresult",
            "failed",
            models.BooleanField(default=False, help_text="The agent gave no answer; `error` says why."),
        ),
        migrations.AddField(
            "evalresult",
            "judge_tokens",
            models.PositiveIntegerField(default=0, help_text="Paid for the verdict; a known verdict costs nothing."),
        ),
        migrations.AddField("evalresult", "judge_cost_usd", models.FloatField(default=0)),
        migrations.AlterField(
            "evalresult",
            "judgement",
            models.JSONField(
                blank=True,
                null=True,
                help_text="{score, explanation, model, revision, references: whether it saw gold answers}.",
            ),
        ),
        migrations.AlterField(
            "evalresult",
            "model",
            models.CharField(blank=True, max_length=300, help_text="Empty where the agent asked none."),
        ),
        migrations.AlterField("evalresult", "cost_usd", models.FloatField(default=0, help_text="Of the agent alone.")),
        migrations.AddField("evalpair", "model", models.CharField(blank=True, max_length=300)),
        migrations.AddField(
            "evalpair", "revision", models.CharField(blank=True, max_length=64, help_text="Of the pairwise prompt.")
        ),
        migrations.AddField(
            "evalpair", "references", models.BooleanField(default=False, help_text="The judge saw gold answers.")
        ),
        migrations.RenameField("evalpair", "cost_usd", "judge_cost_usd"),
        migrations.RenameField("evalpair", "prompt_tokens", "judge_tokens"),
        migrations.RemoveField("evalpair", "completion_tokens"),
        migrations.RunPython(told_apart, migrations.RunPython.noop),
    ]
