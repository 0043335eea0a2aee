"""How we know: eval sets, runs over them, the results item by item, and judges' verdicts."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from adaptrag.common.models import Job
from agents.models import AgentVariant, Collection, slug_validator
from agents.retrieval.files import is_locked


class EvalSet(models.Model):
    """A frozen list of questions, (name, version). Changed questions make the next version; a run names the one it used."""

    class Source(models.TextChoices):
        BEIR = "beir", "BEIR folder"
        JSONL = "jsonl", "JSON lines"
        DOCS = "docs", "built in, over the project's docs"
        DATA_FOLDER = "data_folder", "data/eval/queries.jsonl"
        INTERACTIONS = "interactions", "logged interactions"

    name = models.CharField(max_length=64, validators=[slug_validator])
    version = models.PositiveIntegerField(default=1, editable=False)
    source = models.CharField(max_length=20, choices=Source)
    origin = models.CharField(max_length=500, blank=True, help_text="Where the questions came from.")
    description = models.TextField(blank=True)
    sha256 = models.CharField(max_length=64, editable=False, help_text="Of the canonical export.")
    questions_count = models.PositiveIntegerField(default=0, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "-version"]
        constraints = [models.UniqueConstraint(fields=["name", "version"], name="evalset_version_once")]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


class EvalQuestion(models.Model):
    """One item: gold answers, gold passages (document source -> gain), both, or neither (then only judges apply).

    `unanswerable`: the documents hold no answer, so that the right one is to say so.
    """

    eval_set = models.ForeignKey(EvalSet, on_delete=models.CASCADE, related_name="questions")
    key = models.CharField(max_length=200)
    ordinal = models.PositiveIntegerField()
    question = models.TextField()
    answers = models.JSONField(default=list, blank=True)
    gold = models.JSONField(default=dict, blank=True)
    category = models.CharField(max_length=32, blank=True)
    unanswerable = models.BooleanField(default=False)
    metadata = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["eval_set", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["eval_set", "key"], name="evalquestion_key_once")]

    def __str__(self) -> str:
        return self.question[:80]


class EvalRun(models.Model):
    """Agents asked the questions of one eval set. What is asked is fixed at the start; the job says how far it has come."""

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        STOPPED = "stopped", "stopped at its budget"
        CANCELLED = "cancelled"
        FAILED = "failed"

    LIVE = (State.QUEUED, State.RUNNING)

    class Judge(models.TextChoices):
        NONE = "none", "no judge: retrieval and latency only"
        REFERENCE = "reference", "token F1 against gold answers"
        LLM = "llm", "a chat model"

    name = models.CharField(max_length=200, blank=True)
    eval_set = models.ForeignKey(EvalSet, on_delete=models.PROTECT, related_name="runs")
    collection = models.ForeignKey(Collection, null=True, on_delete=models.SET_NULL, related_name="+")
    variants = models.ManyToManyField(AgentVariant, related_name="+")
    baseline = models.CharField(max_length=80, blank=True, help_text="Agent that the others are compared with.")
    top_k = models.PositiveIntegerField(default=5, validators=[MinValueValidator(1), MaxValueValidator(50)])
    judge = models.CharField(max_length=16, choices=Judge, default=Judge.REFERENCE)
    judge_backend = models.CharField(max_length=32, blank=True)
    judge_model = models.CharField(max_length=300, blank=True)
    judge_options = models.JSONField(default=dict, blank=True)
    judge_revision = models.CharField(max_length=64, blank=True, help_text="Revision of the judge's prompt.")
    judge_blind = models.BooleanField(default=False, help_text="The judge is not shown the gold answers.")
    pairwise = models.BooleanField(default=False, help_text="The judge also compares each answer with the baseline's.")
    max_questions = models.PositiveIntegerField(null=True, blank=True)
    concurrency = models.PositiveIntegerField(default=4, validators=[MinValueValidator(1), MaxValueValidator(64)])
    budget_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    budget_usd = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.0)])
    retried_tokens = models.PositiveBigIntegerField(default=0, help_text="Paid for items that failed and were asked again.")
    retried_usd = models.FloatField(default=0)
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    summary = models.JSONField(null=True, blank=True)
    results_file = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name or f"Run {self.pk} on {self.eval_set}"

    @property
    def status(self) -> str:
        """The state, or "interrupted" where nothing works on the run any more: its process was killed."""
        if self.state not in self.LIVE or (self.job is not None and self.job.is_live):
            return self.state
        return self.state if is_locked(self.lock_path) else "interrupted"

    @property
    def lock_path(self) -> Path:
        """Held by the process that executes the run."""
        return settings.DATA_DIR / "locks" / f"evalrun-{self.pk}"

    def labelled(self) -> dict[int, AgentVariant]:
        """Variants by id, ordered by name, each with `.label`: its name, with the revision where two share the name."""
        variants = sorted(self.variants.all(), key=lambda variant: (variant.name, variant.revision))
        names = [variant.name for variant in variants]
        for variant in variants:
            variant.label = variant.name if names.count(variant.name) == 1 else str(variant)
        return {variant.pk: variant for variant in variants}


class EvalResult(models.Model):
    """One agent's answer to one question of a run, with its scores. Saved once; a resumed run asks only what is missing."""

    run = models.ForeignKey(EvalRun, on_delete=models.CASCADE, related_name="results")
    question = models.ForeignKey(EvalQuestion, on_delete=models.PROTECT, related_name="+")
    variant = models.ForeignKey(AgentVariant, on_delete=models.PROTECT, related_name="+")
    answer = models.TextField(blank=True)
    sources = models.JSONField(default=list, blank=True)
    trace = models.JSONField(default=list, blank=True)
    error = models.JSONField(null=True, blank=True, help_text="{code, message} of an agent or judge that failed.")
    score = models.FloatField(null=True, blank=True, help_text="What the run compares by; empty: unscored.")
    metrics = models.JSONField(default=dict, blank=True, help_text="Every metric that could be computed.")
    failed = models.BooleanField(default=False, help_text="The agent gave no answer; `error` says why.")
    complete = models.BooleanField(default=True, help_text="False while the judge has yet to look at it.")
    judgement = models.JSONField(
        null=True, blank=True, help_text="{score, explanation, model, revision, references: whether it saw gold answers}."
    )
    judge_tokens = models.PositiveIntegerField(default=0, help_text="Paid for the verdict; a known verdict costs nothing.")
    judge_cost_usd = models.FloatField(default=0)
    model = models.CharField(max_length=300, blank=True, help_text="Empty where the agent asked none.")
    fallback = models.JSONField(null=True, blank=True)
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cost_usd = models.FloatField(default=0, help_text="Of the agent alone.")
    latency_ms = models.FloatField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["run", "question", "variant"]
        constraints = [models.UniqueConstraint(fields=["run", "question", "variant"], name="evalresult_once")]

    def __str__(self) -> str:
        return f"{self.variant} on {self.question_id}"

    @property
    def own(self) -> bool:
        """Whether the agent answered, and not by a fall-back's chat model."""
        return self.fallback is None and not self.failed


class EvalPair(models.Model):
    """The judge's preference between an agent's answer and the baseline's, asked for in both orders."""

    class Outcome(models.TextChoices):
        WIN = "win"
        TIE = "tie"
        LOSS = "loss"

    run = models.ForeignKey(EvalRun, on_delete=models.CASCADE, related_name="pairs")
    question = models.ForeignKey(EvalQuestion, on_delete=models.PROTECT, related_name="+")
    variant = models.ForeignKey(AgentVariant, on_delete=models.PROTECT, related_name="+")
    outcome = models.CharField(
        max_length=8, choices=Outcome, blank=True, help_text="Of the agent; empty where the judge failed."
    )
    consistent = models.BooleanField(default=True, help_text="False: swapping the answers swapped the preference.")
    explanations = models.JSONField(default=list, blank=True)
    model = models.CharField(max_length=300, blank=True)
    revision = models.CharField(max_length=64, blank=True, help_text="Of the pairwise prompt.")
    references = models.BooleanField(default=False, help_text="The judge saw gold answers.")
    error = models.JSONField(null=True, blank=True)
    judge_tokens = models.PositiveIntegerField(default=0)
    judge_cost_usd = models.FloatField(default=0)

    class Meta:
        ordering = ["run", "question", "variant"]
        constraints = [models.UniqueConstraint(fields=["run", "question", "variant"], name="evalpair_once")]

    def __str__(self) -> str:
        return f"{self.outcome or 'no verdict'} of {self.variant} on {self.question_id}"


class JudgeCall(models.Model):
    """A verdict by the content it was given for: the same question, answer and prompt are never paid for twice."""

    digest = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=16)
    model = models.CharField(max_length=300)
    revision = models.CharField(max_length=64)
    verdict = models.JSONField()
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.kind} by {self.model}"


class Experiment(models.Model):
    """A fixed split of sessions among agents, next to the bandit. All that decides the result is fixed before it starts."""

    class State(models.TextChoices):
        DRAFT = "draft"
        RUNNING = "running"
        ENDED = "ended"

    class Analysis(models.TextChoices):
        FIXED_HORIZON = "fixed_horizon", "fixed horizon: one look, at the planned size"
        ALWAYS_VALID = "always_valid", "always valid: may be read at any time"

    name = models.CharField(max_length=64, unique=True, validators=[slug_validator])
    shares = models.JSONField(help_text="Agent -> share of the sessions; what is left over goes to the bandit.")
    variants = models.JSONField(
        default=dict, blank=True, help_text="Agent -> id of the revision that answers, fixed at the start."
    )
    baseline = models.CharField(max_length=64)
    analysis = models.CharField(max_length=16, choices=Analysis, default=Analysis.FIXED_HORIZON)
    difference = models.FloatField(help_text="The smallest difference in mean reward that is worth finding.")
    deviation = models.FloatField(help_text="Standard deviation of a session's mean reward.")
    planned = models.PositiveIntegerField(help_text="Rated sessions an agent, found with power 0.8 at the 5 % level.")
    state = models.CharField(max_length=16, choices=State, default=State.DRAFT)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["state"], condition=models.Q(state="running"), name="experiment_one_running")
        ]

    def __str__(self) -> str:
        return self.name


class PolicyEstimate(models.Model):
    """What another policy or other priors would have been worth, from the log. `result` is what `ope --json` prints."""

    class Priors(models.TextChoices):
        SET = "set", "the priors as they are set now"
        NONE = "none", "no priors"
        RUN = "run", "the scores of an eval run"

    kind = models.CharField("rule", max_length=40, help_text="The policy that would have routed.")
    parameters = models.JSONField(default=dict, blank=True)
    min_share = models.FloatField("minimum share", default=0.02, validators=[MinValueValidator(0.0), MaxValueValidator(0.5)])
    priors = models.CharField(max_length=8, choices=Priors, default=Priors.SET)
    prior_run = models.ForeignKey(EvalRun, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    run_pulls = models.FloatField(default=10, validators=[MinValueValidator(0.0), MaxValueValidator(10_000.0)])
    prior_agent = models.CharField(max_length=64, blank=True)
    prior_pulls = models.FloatField(default=0, validators=[MinValueValidator(0.0), MaxValueValidator(10_000.0)])
    prior_mean = models.FloatField(default=0.5, validators=[MinValueValidator(0.0), MaxValueValidator(1.0)])
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    job = models.ForeignKey(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        what = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        prior = f", {self.prior_agent} with {self.prior_pulls:g} pulls at {self.prior_mean:g}" if self.prior_agent else ""
        run = f" ({self.prior_run or 'deleted'}, worth {self.run_pulls:g} pulls)" if self.priors == self.Priors.RUN else ""
        return f"{self.kind}({what}), {self.get_priors_display()}{run}{prior}"

    @property
    def ended(self) -> bool:
        return self.result is not None or bool(self.error)
