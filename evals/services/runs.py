"""Runs: created with what they ask fixed, started on the queue, cancelled, resumed; their scores become priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Q

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import job_cancel, job_enqueue, job_retry
from adaptrag.common.models import Job
from agents.classifier import CATEGORIES, classify
from agents.errors import UnknownAgent
from agents.models import AgentVariant, Collection
from agents.selectors import collection_for, live_variant
from evals.errors import UnknownRun
from evals.judging import judge_model_of
from evals.models import EvalRun, EvalSet
from evals.services.execution import evalrun_spent
from evals.tasks import RUN
from rewards.services import prior_set

MOST_PULLS = 10_000
PRICES = {"price_prompt_per_million", "price_completion_per_million"}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to ask whom.

    `agents` are names (their newest live revision), "name@revision", or variants; `baseline` is the first by default.
    `pairwise` lets the LLM judge also compare each answer with the baseline's; a `judge_blind` one sees no gold answers.
    """

    eval_set: EvalSet
    agents: tuple[str | AgentVariant, ...]
    collection: str | None = None
    baseline: str = ""
    top_k: int = 5
    judge: str = EvalRun.Judge.REFERENCE
    judge_backend: str = ""
    judge_model: str = ""
    judge_options: dict[str, Any] = field(default_factory=dict)
    judge_blind: bool = False
    pairwise: bool = False
    max_questions: int | None = None
    concurrency: int = 4
    budget_tokens: int | None = None
    budget_usd: float | None = None
    name: str = ""
    user: Any = None


def evalrun_get(number: int) -> EvalRun:
    """Raises UnknownRun, which names the newest."""
    run = EvalRun.objects.select_related("eval_set", "collection", "job").filter(pk=number).first()
    if run is None:
        newest = EvalRun.objects.values_list("pk", flat=True).first()
        raise UnknownRun(f"There is no eval run {number}. {f'The newest is {newest}.' if newest else 'There is none yet.'}")
    return run


@transaction.atomic
def evalrun_create(request: RunRequest) -> EvalRun:
    """The run's row, not started. Raises InvalidInput, UnknownAgent, UnknownCollection naming what is wrong."""
    variants = [_variant(agent) for agent in request.agents]
    if not variants or len({variant.pk for variant in variants}) != len(variants):
        named = ", ".join(map(str, variants)) or "none"
        raise InvalidInput(f"Name at least one agent, and each once; not {named}.", field="agents")
    _check_numbers(request)
    if request.judge not in EvalRun.Judge.values:
        raise InvalidInput(f"Unknown judge {request.judge!r}; there are {', '.join(EvalRun.Judge.values)}.", field="judge")
    if request.judge == EvalRun.Judge.REFERENCE and not request.eval_set.questions.exclude(answers=[]).exists():
        raise InvalidInput(
            f"{request.eval_set} has no gold answers to judge by. Use judge 'llm', or 'none' for retrieval and latency.",
            field="judge",
        )
    if request.pairwise and (request.judge != EvalRun.Judge.LLM or len(variants) < 2):
        raise InvalidInput("Pairwise comparison takes judge 'llm' and at least two agents.", field="pairwise")
    run = EvalRun(
        name=request.name[:200],
        eval_set=request.eval_set,
        collection=_collection(request),
        top_k=request.top_k,
        judge=request.judge,
        judge_backend=request.judge_backend,
        judge_model=request.judge_model,
        judge_options=request.judge_options,
        judge_blind=request.judge_blind,
        pairwise=request.pairwise,
        max_questions=request.max_questions,
        concurrency=request.concurrency,
        budget_tokens=request.budget_tokens,
        budget_usd=request.budget_usd,
        created_by=request.user,
    )
    judge_model_of(run)
    if run.budget_usd is not None:
        _check_priced(run, variants)
    run.save()
    run.variants.set(variants)
    labels = {variant.pk: variant.label for variant in run.labelled().values()}
    run.baseline = request.baseline.replace("@", " r") or labels[variants[0].pk]
    if run.baseline not in labels.values():
        known = ", ".join(labels.values())
        raise InvalidInput(f"The baseline {request.baseline!r} is not among the agents {known}.", field="baseline")
    run.save(update_fields=["baseline"])
    return run


def _check_priced(run: EvalRun, variants: Sequence[AgentVariant]) -> None:
    """A budget in money stops nothing that has no price. A model that is free says so with prices of 0."""
    asked = [(str(variant), variant.chat_backend, variant.chat_model, variant.chat_options) for variant in variants]
    if run.judge == EvalRun.Judge.LLM:
        asked.append(("the judge", run.judge_backend, run.judge_model, run.judge_options))
    for who, backend, model, options in asked:
        fallback = options.get("fallback") or {}
        models = [(backend, model, options), (fallback.get("backend"), fallback.get("model"), fallback.get("options", {}))]
        for place, name, chosen in models:
            if place == "openai_compatible" and not PRICES & chosen.keys():
                raise InvalidInput(
                    f"A budget in US dollars would never stop {who}: {name} has no price. Set {' and '.join(sorted(PRICES))} "
                    "in its options (0 where it is free), or take a budget in tokens.",
                    field="budget_usd",
                )


def _collection(request: RunRequest) -> Collection:
    """The one named; else the one of the BEIR folder that the set came from, if it is there; else the default."""
    own = request.eval_set.source == EvalSet.Source.BEIR and Collection.objects.filter(name=request.eval_set.name).exists()
    return collection_for(request.eval_set.name if request.collection is None and own else request.collection)


def _variant(agent: str | AgentVariant) -> AgentVariant:
    if isinstance(agent, AgentVariant):
        return agent
    name, at, revision = agent.partition("@")
    if not at:
        return live_variant(name)
    known = AgentVariant.objects.filter(name=name)
    found = known.filter(revision=int(revision)).first() if revision.isdecimal() and len(revision) < 10 else None
    if found is None:
        there = ", ".join(f"{name}@{number}" for number in known.values_list("revision", flat=True)) or "no revision of it"
        raise UnknownAgent(f"There is no agent {agent!r}; there is {there}.", agent=agent)
    return found


def _check_numbers(request: RunRequest) -> None:
    checks = {"top_k": (request.top_k, 1, 50), "concurrency": (request.concurrency, 1, 64)}
    for name, most in (("max_questions", 1_000_000), ("budget_tokens", 10**15)):
        if getattr(request, name) is not None:
            checks[name] = (getattr(request, name), 1, most)
    for name, (value, low, high) in checks.items():
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{name} must be a whole number from {low} to {high:,}, not {value!r}.", field=name)
    usd = request.budget_usd
    if usd is not None and (isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 < usd < 10**12):
        raise InvalidInput(f"budget_usd must be a sum in US dollars above 0, not {usd!r}.", field="budget_usd")


def evalrun_start(request: RunRequest) -> EvalRun:
    """Create a run and put it on the queue."""
    with transaction.atomic():
        run = evalrun_create(request)
        _enqueue(run, request.user)
    run.refresh_from_db()
    return run


def evalrun_cancel(run: EvalRun) -> EvalRun:
    """Stop a queued or running run; what it has answered stays, and evalrun_resume goes on from there."""
    if run.job is not None and job_cancel(run.job).state == Job.State.CANCELLED:
        EvalRun.objects.filter(pk=run.pk, state__in=EvalRun.LIVE).update(state=EvalRun.State.CANCELLED)
    run.refresh_from_db()
    return run


def evalrun_resume(
    run: EvalRun,
    *,
    user: Any = None,
    budget_tokens: int | None = None,
    budget_usd: float | None = None,
    retry_failed: bool = False,
) -> EvalRun:
    """Queue a run again that was cancelled, stopped, failed or killed; only what is missing is asked. Raises Conflict.

    A new budget replaces the old one, and counts what is spent already. `retry_failed` asks again what ended with an error: the
    agent where it failed, else the judge alone.
    """
    with transaction.atomic():
        evalrun_prepare(run, budget_tokens=budget_tokens, budget_usd=budget_usd, retry_failed=retry_failed)
        if run.job is not None and run.job.state in (Job.State.FAILED, Job.State.CANCELLED):
            job_retry(run.job, user=user)
        else:
            _enqueue(run, user)
        EvalRun.objects.filter(pk=run.pk).update(state=EvalRun.State.QUEUED)
    run.refresh_from_db()
    return run


def evalrun_prepare(
    run: EvalRun, *, budget_tokens: int | None = None, budget_usd: float | None = None, retry_failed: bool = False
) -> None:
    """Make an ended run ready to go on. Raises Conflict where nothing is missing or it is still under way."""
    if run.job is not None and run.job.is_live:
        raise Conflict(f"{run} is {run.job.state} as job {run.job.pk}. Cancel it first, or wait for its end.")
    failed = Q(error__isnull=False)
    if run.state == EvalRun.State.DONE and not (
        retry_failed and (run.results.filter(failed).exists() or run.pairs.filter(failed).exists())
    ):
        raise Conflict(f"{run} is done; nothing is missing. Start a new run to ask again.")
    budgets = {"budget_tokens": budget_tokens, "budget_usd": budget_usd}
    for name, value in budgets.items():
        setattr(run, name, getattr(run, name) if value is None else value)
    if budget_usd is not None:
        _check_priced(run, list(run.variants.all()))
    _check_left(run)
    if retry_failed:
        run.retried_tokens, run.retried_usd = evalrun_spent(run)
        run.results.filter(failed=True).delete()
        run.results.filter(failed).update(complete=False, error=None)  # the answer is there, its verdict isn't
        run.pairs.filter(failed).delete()
        kept = evalrun_spent(run, retried=False)
        run.retried_tokens, run.retried_usd = run.retried_tokens - kept[0], max(0.0, run.retried_usd - kept[1])
    run.save(update_fields=[*budgets, "retried_tokens", "retried_usd"])


def _check_left(run: EvalRun) -> None:
    """Raises Conflict where the run would stop again at once."""
    tokens, usd = evalrun_spent(run)
    if run.budget_tokens is not None and tokens >= run.budget_tokens:
        raise Conflict(f"{run} has spent {tokens:,} tokens of {run.budget_tokens:,}. Resume it with a larger budget_tokens.")
    if run.budget_usd is not None and usd >= run.budget_usd:
        raise Conflict(f"{run} has spent {usd:.4f} USD of {run.budget_usd:g}. Resume it with a larger budget_usd.")


def evalrun_priors(run: EvalRun, *, pulls: float, user: Any = None) -> int:
    """Use a run's scores as priors, worth `pulls` pulls, for each agent and category asked. Returns the priors set."""
    if isinstance(pulls, bool) or not 0 < pulls <= MOST_PULLS:
        raise InvalidInput(f"A prior must be worth between 0 and {MOST_PULLS:,} pulls, not {pulls!r}.", field="pulls")
    scores = evalrun_scores(run)
    with transaction.atomic():
        for (category, agent), mean in scores.items():
            prior_set(category=category, agent_name=agent, pulls=pulls, total=pulls * mean, user=user)
    return len(scores)


def evalrun_scores(run: EvalRun) -> dict[tuple[str, str], float]:
    """(category, agent) -> mean score, as priors take it. Raises Conflict where the run can't be a prior."""
    if any(variant.label != variant.name for variant in run.labelled().values()):
        raise Conflict(
            f"{run} asked several revisions of one agent, and a prior belongs to the agent. Run the one that counts."
        )
    scores: dict[tuple[str, str], list[float]] = {}
    for result in run.results.exclude(score=None).select_related("variant", "question").defer("sources", "trace", "answer"):
        category = result.question.category if result.question.category in CATEGORIES else classify(result.question.question)
        scores.setdefault((category, result.variant.name), []).append(result.score)
    if not scores:
        raise Conflict(f"{run} has no scores yet.")
    return {key: sum(values) / len(values) for key, values in scores.items()}


def _enqueue(run: EvalRun, user: Any) -> None:
    job = job_enqueue(RUN, {"run": run.pk}, title=f"Evaluate on {run.eval_set}", idempotency_key=f"evalrun:{run.pk}", user=user)
    EvalRun.objects.filter(pk=run.pk).update(job=job)
