"""What a run would do now, with figures. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Avg, Q

from adaptrag.common.errors import InvalidInput
from adaptrag.loop.models import LoopRun
from adaptrag.loop.references import References, references_find
from agents.errors import UnknownAgent
from agents.llm.weights import DEFAULT_MODEL
from agents.models import AgentVariant
from agents.selectors import collection_for, live_variant, live_variants
from rewards.leaderboard import leaderboard
from rewards.models import Interaction, Reward
from rewards.services import canaries_of, thresholds
from training.models import TeacherAnswer, TrainingRun
from training.quantization import MODES
from training.services import budget_get, teacher_refused
from training.services.quantizations import AGENT as QUANTIZED

MIN_REWARD = 0.8
TUNED = "lora_rag"  # whose next revision a tuned model becomes; a quantized one is compared with it
# A run that ended so has looked at the data; what came before it is not new to the next.
CONSUMED = (LoopRun.Verdict.PROMOTED, LoopRun.Verdict.REJECTED, LoopRun.Verdict.NEEDS_HUMAN)


@dataclass(frozen=True, kw_only=True)
class ImproveRequest:
    """What to improve by. None or empty: the setting of that name; docs/configuration.md has them.

    force: also with little new data. eval_set: whose gold answers gate. questions: at most so many are asked by the gate.
    incumbent: agent to be compared with; else the live one with the best mean reward. quantize: a mode, or "none".
    """

    force: bool = False
    eval_set: str | None = None
    collection: str | None = None
    model: str = ""
    steps: int | None = None
    quantize: str | None = None
    questions: int | None = None
    top_k: int = 5
    incumbent: str = ""
    trigger: str = LoopRun.Trigger.COMMAND
    user: Any = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """A request with its settings filled in, as a run keeps it."""

    force: bool
    eval_set: str
    collection: str | None
    model: str
    steps: int
    quantize: str
    questions: int
    top_k: int
    incumbent: str

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Options:
        return cls(**{one.name: stored[one.name] for one in fields(cls)})


def options_of(request: ImproveRequest) -> Options:
    """Raises InvalidInput naming what is wrong, UnknownEvalSet, UnknownAgent, UnknownCollection."""

    def given(value: Any, setting: Any) -> Any:
        return setting if value is None else value

    options = Options(
        force=request.force,
        eval_set=given(request.eval_set, settings.ADAPTRAG_IMPROVE_EVAL_SET),
        collection=request.collection,
        model=request.model or settings.ADAPTRAG_IMPROVE_MODEL or DEFAULT_MODEL,
        steps=given(request.steps, settings.ADAPTRAG_IMPROVE_STEPS),
        quantize=given(request.quantize, settings.ADAPTRAG_IMPROVE_QUANTIZE),
        questions=given(request.questions, settings.ADAPTRAG_IMPROVE_QUESTIONS),
        top_k=request.top_k,
        incumbent=request.incumbent,
    )
    for name, low, high in (("steps", 1, 1_000_000), ("questions", 1, 1_000_000), ("top_k", 1, 50)):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{name} must be a whole number from {low} to {high:,}, not {value!r}.", field=name)
    if options.quantize not in ("", "none", *MODES):
        raise InvalidInput(f"There is no mode {options.quantize!r}; there are none, {', '.join(MODES)}.", field="quantize")
    if options.collection is not None:
        collection_for(options.collection)
    if options.incumbent:
        live_variant(options.incumbent)
    references_find(options.eval_set, needed=0)
    return options


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Figures of now. new: rated or corrected questions, and accepted answers of a teacher, since `since`. canary: a result of
    an earlier run that is still under trial."""

    options: Options
    since: datetime | None
    interactions: int
    rated: int
    corrected: int
    new: int
    needed_new: int
    references: References
    needed_references: int
    incumbent: AgentVariant
    canary: AgentVariant | None
    stages: tuple[dict[str, Any], ...] = field(default=())

    @property
    def skipped(self) -> str:
        """Why the run would be skipped; empty if it would not."""
        if self.options.force:
            return ""
        if self.canary:
            return (
                f"{self.canary} is still a canary. Wait until its ratings make it active or roll it back, or decide it on its "
                "page. A forced run goes on; what passes its gate then waits for a click."
            )
        if self.new >= self.needed_new:
            return ""
        since = f"since {self.since:%Y-%m-%d %H:%M}" if self.since else "so far"
        return (
            f"{self.new} corrections and answers rated {MIN_REWARD:g} or better {since}; {self.needed_new} are needed "
            "(ADAPTRAG_IMPROVE_MIN_NEW)."
        )

    @property
    def verdict(self) -> str:
        """The one that stands already; empty where the run decides."""
        if self.skipped:
            return LoopRun.Verdict.SKIPPED
        return LoopRun.Verdict.NEEDS_HUMAN if self.references.n < self.needed_references else ""


def plan_make(options: Options) -> Plan:
    """Raises Conflict or UnknownAgent where no agent is live."""
    since = _consumed_until()
    wanted = Q(source=Reward.Source.USER) & (~Q(correction="") | Q(value__gte=MIN_REWARD))
    useful = Reward.objects.filter(wanted)
    taught = TeacherAnswer.objects.filter(accepted=True)
    if since is not None:
        useful, taught = useful.filter(updated_at__gt=since), taught.filter(created_at__gt=since)
    new = set(useful.values_list("interaction", flat=True)) | set(taught.values_list("interaction", flat=True))
    people = Reward.objects.filter(source=Reward.Source.USER)
    plan = Plan(
        options=options,
        since=since,
        interactions=Interaction.objects.count(),
        rated=people.values("interaction").distinct().count(),
        corrected=people.exclude(correction="").values("interaction").distinct().count(),
        new=len(new),
        needed_new=settings.ADAPTRAG_IMPROVE_MIN_NEW,
        references=references_find(options.eval_set, needed=references_needed()),
        needed_references=references_needed(),
        incumbent=incumbent_of(options.incumbent),
        canary=next((one for name in candidates_of(options) for one in canaries_of(name)), None),
    )
    return replace(plan, stages=tuple(_foreseen(plan)))


def candidates_of(options: Options) -> tuple[str, ...]:
    """The agents of which a run makes revisions."""
    return (TUNED,) if quantization_absent(options) else (TUNED, QUANTIZED)


def references_needed() -> int:
    return thresholds().gate_references


def incumbent_of(name: str) -> AgentVariant:
    """The agent of that name; else the active one with the best mean over enough ratings; else hybrid_rag, or the first."""
    if name:
        return live_variant(name)
    live = {variant.pk: variant for variant in live_variants() if variant.state == AgentVariant.State.ACTIVE}
    if not live:
        raise UnknownAgent("No agent is active, so there is nothing to improve on. Register one in the admin.")
    rows = [row for row in leaderboard() if row.category is None and row.variant_id in live and row.enough]
    if rows:
        return live[max(rows, key=lambda row: row.mean).variant_id]
    return next((variant for variant in live.values() if variant.strategy == "hybrid_rag"), next(iter(live.values())))


def teacher_absent() -> str:
    """Why no teacher is asked; empty where one is configured and can be paid."""
    if not settings.ADAPTRAG_TEACHER_MODEL:
        return "No teacher is configured (ADAPTRAG_TEACHER_MODEL)."
    if refused := teacher_refused():
        return refused
    budget = budget_get()
    return "" if budget.spent < budget.limit else f"The teacher's budget is spent: {budget}."


def quantization_absent(options: Options) -> str:
    if options.quantize in ("", "none"):
        return "No mode is set (ADAPTRAG_IMPROVE_QUANTIZE): the adapter answers beside the base model."
    return ""


def _consumed_until() -> datetime | None:
    done = LoopRun.objects.filter(verdict__in=CONSUMED).exclude(data_until=None)
    return done.order_by("-data_until").values_list("data_until", flat=True).first()


def _foreseen(plan: Plan) -> list[dict[str, Any]]:
    """The stages in the form of the contract, in the future tense."""
    options, references = plan.options, plan.references
    data = (
        f"{plan.interactions} questions were asked, {plan.rated} of their answers rated and {plan.corrected} corrected; "
        f"{plan.new} are new and can be learned from. {references.n + len(references.report)} questions stay out of training."
    )
    asked = min(references.n, options.questions)
    answer = Interaction.objects.filter(state=Interaction.State.ANSWERED).aggregate(mean=Avg("latency_ms"))["mean"]
    about = f", about {2 * asked * answer / 60_000:.0f} min at {answer / 1000:.1f} s an answer" if answer and asked else ""
    last = TrainingRun.objects.exclude(artifact=None).filter(base_model=options.model).order_by("-id").first()
    pace = f", about {options.steps * last.result['seconds'] / last.result['steps'] / 60:.0f} min" if last else ""
    enough = references.n >= plan.needed_references
    gate = (
        f"Compared with {plan.incumbent} by the paired interval; promoted to canary, or rejected."
        if enough
        else f"Too few to decide ({references.n} of {plan.needed_references}), so a person is needed. {collect(plan)}"
    )
    words = {
        "prepare": ("skipped" if plan.skipped else "", f"{data} {plan.skipped}".strip()),
        "distil": (
            "skipped" if teacher_absent() else "",
            teacher_absent() or f"{settings.ADAPTRAG_TEACHER_MODEL}: {budget_get()}",
        ),
        "train": ("", f"{options.steps} steps of {options.model}{pace}."),
        "quantize": (
            "skipped" if quantization_absent(options) else "",
            quantization_absent(options) or f"Mode {options.quantize}, where the model's family can have it.",
        ),
        "evaluate": ("" if asked else "skipped", f"{asked} of {references.words()}, two agents{about}."),
        "gate": ("", gate),
        "register": ("", "The candidate is registered whatever comes of it; without the gate it takes no traffic."),
    }
    return [
        {
            "stage": name,
            "state": "skipped" if plan.skipped else state or "planned",
            "seconds": None,
            "detail": detail,
        }
        for name, (state, detail) in words.items()
    ]


def collect(plan: Plan) -> str:
    """What a person has to collect before the gate can decide."""
    return collect_words(plan.references.kind, plan.references.n, plan.needed_references)


def collect_words(kind: str, n: int, needed: int) -> str:
    rest = max(needed - n, 0)
    if kind == "gold":
        return f"Collect {rest} more questions with gold answers in the eval set."
    if kind == "judge":
        return f"Collect {rest} more questions, or calibrate the judge: its page in the admin says what is missing."
    return f"Collect {rest} more corrections that no training has seen. {corrections_words(rest)}"


def corrections_words(rest: int) -> str:
    return (
        f"A fifth of the corrected questions gates, so that takes about {5 * rest} more of them; or make an eval set with gold "
        "answers and name it in ADAPTRAG_IMPROVE_EVAL_SET."
    )
