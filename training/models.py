"""How models get better: datasets and their examples, what a teacher answered and cost, and training runs."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models

from adaptrag.common.models import Job
from agents.models import AgentVariant, ModelArtifact, slug_validator
from rewards.models import Interaction
from rewards.models.validators import UNIT


class SFTDataset(models.Model):
    """Frozen examples for supervised fine-tuning. Dropping examples makes another dataset, with this one as its parent."""

    class Source(models.TextChoices):
        ALL = "all"
        BEST = "best", "best-rated answers"
        CORRECTIONS = "corrections"
        TEACHER = "teacher"
        BUILTIN = "builtin", "built-in questions over the handbook"

    source = models.CharField(max_length=16, choices=Source, default=Source.ALL)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="children")
    sha256 = models.CharField(max_length=64, help_text="Of its examples, with their splits.")
    filters = models.JSONField(default=dict, help_text="What was asked for.")
    counts = models.JSONField(default=dict, help_text="Kept by split and origin, left out by reason, cut.")
    path = models.CharField(max_length=500, help_text="Its own training file, relative to the data folder.")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "SFT dataset"

    def __str__(self) -> str:
        return f"dataset {self.pk}"

    @property
    def file(self) -> Path:
        return Path(settings.DATA_DIR) / self.path


class SFTExample(models.Model):
    """A question that was looked at for a dataset: one that it holds (split train or validation), or why it does not."""

    class Split(models.TextChoices):
        TRAIN = "train"
        VALIDATION = "validation"
        LEFT_OUT = "left_out", "left out"

    class Origin(models.TextChoices):
        CORRECTION = "correction"
        BEST = "best", "best-rated answer"
        TEACHER = "teacher"
        BUILTIN = "builtin", "built-in"

    dataset = models.ForeignKey(SFTDataset, on_delete=models.CASCADE, related_name="examples")
    interaction = models.ForeignKey(Interaction, null=True, blank=True, on_delete=models.SET_NULL, related_name="sft_examples")
    split = models.CharField(max_length=16, choices=Split)
    origin = models.CharField(max_length=16, choices=Origin, blank=True)
    reason = models.CharField(max_length=300, blank=True, help_text="Why it was left out.")
    note = models.CharField(max_length=300, blank=True, help_text="What was cut or replaced in it.")
    reward = models.FloatField(null=True, blank=True, validators=UNIT)
    tokens = models.PositiveIntegerField(default=0, help_text="Prompt and answer, by the student's tokenizer.")
    question = models.TextField()
    target = models.TextField(blank=True)
    messages = models.JSONField(default=list, help_text="The chat that is trained on; its last message is the target.")

    class Meta:
        ordering = ["id"]
        verbose_name = "SFT example"
        indexes = [models.Index(fields=["dataset", "split"], name="sftexample_split")]

    def __str__(self) -> str:
        return self.question[:80]


class TeacherBudget(models.Model):
    """What teachers may cost, in millionths of a US dollar: `spent` rises in one conditional UPDATE before each call."""

    name = models.CharField(max_length=64, unique=True, validators=[slug_validator])
    limit = models.PositiveBigIntegerField(default=5_000_000, help_text="Millionths of a US dollar.")
    spent = models.PositiveBigIntegerField(default=0, help_text="Millionths of a US dollar, calls under way at their most.")
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.spent / 1e6:.4f} of {self.limit / 1e6:.2f} USD"


class DistillationRun(models.Model):
    """A teacher answering logged questions over the passages that stood in their prompts."""

    dataset = models.ForeignKey(
        SFTDataset,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="distillations",
        help_text="Whose questions; empty: those of the log.",
    )
    job = models.OneToOneField(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="distillation")
    budget = models.ForeignKey(TeacherBudget, on_delete=models.PROTECT, related_name="runs")
    backend = models.CharField(max_length=32)
    model = models.CharField(max_length=300)
    options = models.JSONField(default=dict)
    parameters = models.JSONField(default=dict, help_text="limit, samples, concurrency, batch, prompt revision.")
    counts = models.JSONField(default=dict, help_text="asked, accepted, and refused by reason.")
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    batch_id = models.CharField(max_length=200, blank=True, help_text="Of the provider's batch, where one was sent.")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"distillation {self.pk}"


class TeacherAnswer(models.Model):
    """One answer of a teacher, kept or refused; its row is written before the next call, so nothing is paid twice.

    partial: a later sample is missing, which whoever asks this teacher next asks for.
    """

    run = models.ForeignKey(DistillationRun, on_delete=models.CASCADE, related_name="answers")
    interaction = models.ForeignKey(Interaction, on_delete=models.CASCADE, related_name="teacher_answers")
    text = models.TextField(blank=True)
    accepted = models.BooleanField(default=False)
    partial = models.BooleanField(default=False, help_text="Samples are missing that were asked for.")
    reason = models.CharField(max_length=300, blank=True, help_text="Why it was not accepted.")
    model = models.CharField(max_length=300, blank=True, help_text="As the server named it.")
    prompt_revision = models.CharField(max_length=16)
    samples = models.JSONField(default=list, help_text="What the teacher said when it was asked again.")
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["run", "interaction"], name="teacher_answer_once")]

    def __str__(self) -> str:
        return self.text[:80]


class TrainingRun(models.Model):
    """A LoRA training: what was asked for, its loss curve while it runs, and the artifact that it gave."""

    dataset = models.ForeignKey(SFTDataset, on_delete=models.PROTECT, related_name="trainings")
    job = models.OneToOneField(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="training")
    base_model = models.CharField(max_length=300, help_text="Name, folder or hub name of the student.")
    recipe = models.JSONField(default=dict)
    processes = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    launcher = models.CharField(max_length=1000, blank=True, help_text="Options of `accelerate launch`, over machines.")
    agent = models.CharField(max_length=64, blank=True, help_text="Agent whose candidate the result becomes; empty: none.")
    path = models.CharField(max_length=500, blank=True, help_text="Folder of its checkpoints, relative to the data folder.")
    curve = models.JSONField(default=list, help_text="{step, train_loss | validation_loss, tokens_per_second, seconds_left}.")
    result = models.JSONField(default=dict, help_text="Figures of the finished run.")
    artifact = models.OneToOneField(ModelArtifact, null=True, blank=True, on_delete=models.PROTECT, related_name="training")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"training {self.pk}"

    @property
    def folder(self) -> Path:
        return Path(settings.DATA_DIR) / self.path


class QuantizationReport(models.Model):
    """A build in the making, then what it is like beside the unquantized model, measured in the same job."""

    base_model = models.CharField(max_length=300, help_text="Name, folder or hub name of the model.")
    adapter = models.ForeignKey(
        ModelArtifact,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="quantizations",
        help_text="Merged into it.",
    )
    mode = models.CharField(max_length=32)
    precision = models.CharField(max_length=8, default="fp32", help_text="Of the merge: fp32 or bf16.")
    agent = models.CharField(max_length=64, blank=True, help_text="Agent whose candidate the build becomes; empty: none.")
    job = models.OneToOneField(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="quantization")
    artifact = models.OneToOneField(ModelArtifact, null=True, blank=True, on_delete=models.PROTECT, related_name="quantization")
    variant = models.ForeignKey(AgentVariant, null=True, blank=True, on_delete=models.PROTECT, related_name="quantizations")
    figures = models.JSONField(default=dict, blank=True, help_text="Size, memory, times, speeds and perplexity of the build.")
    unquantized = models.JSONField(
        default=dict, blank=True, help_text="The same of the model in fp32, as transformers runs it."
    )
    fidelity = models.JSONField(
        default=dict, blank=True, help_text="Perplexity against the unquantized model's, and how far their answers agree."
    )
    quality = models.JSONField(
        default=dict, blank=True, help_text="On an eval set: token F1, judge score, paired intervals against the unquantized."
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"quantization {self.pk}"


class QuantizationChoice(models.Model):
    """An operator's decision for a build, and why. Never changed; the newest holds."""

    report = models.ForeignKey(QuantizationReport, on_delete=models.PROTECT, related_name="choices")
    reason = models.TextField()
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"choice of {self.report}"
