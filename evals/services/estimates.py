"""What if another policy or other priors had routed: estimated from the site's log, in a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from adaptrag.common.errors import AdaptRAGError, InvalidInput
from adaptrag.common.jobs import job_enqueue
from evals.estimates import estimated
from evals.models import PolicyEstimate
from evals.ope.target import policy_probabilities
from evals.services.runs import evalrun_scores
from evals.site_log import site_log
from rewards.bandit import POLICIES


@transaction.atomic
def policyestimate_start(estimate: PolicyEstimate, user: Any = None) -> PolicyEstimate:
    """Queue an estimate. Raises InvalidInput that names the field at fault, Conflict for an eval run that can be no prior."""
    from evals.tasks import ESTIMATE

    try:
        estimate.full_clean(exclude=["kind"])
        _rule(estimate)
        _run_scores(estimate)
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0], field=field) from error
    estimate.created_by = user if getattr(user, "pk", None) else None
    estimate.save()
    estimate.job = job_enqueue(ESTIMATE, {"estimate": estimate.pk}, title=f"What if {estimate.kind}"[:200], user=user)
    estimate.save(update_fields=["job"])
    return estimate


def policyestimate_execute(pk: int, progress: Callable[[float, str], Any]) -> dict[str, Any]:
    """Walk the policy through the log and estimate its value; whatever stands in the way is kept as the row's error."""
    estimate = PolicyEstimate.objects.get(pk=pk)
    try:
        estimate.result, estimate.error = _estimated(estimate, progress), ""
        with transaction.atomic():
            estimate.save(update_fields=["result", "error"])
    except Exception as error:
        said = getattr(error, "message", str(error))
        estimate.error = said if isinstance(error, AdaptRAGError | ValueError) else f"{type(error).__name__}: {said}"
        estimate.save(update_fields=["error"])
        raise
    return {"estimate": pk, "n": estimate.result["n"]}


def _estimated(estimate: PolicyEstimate, progress: Callable[[float, str], Any]) -> dict[str, Any]:
    policy = _rule(estimate)
    progress(0.0, "reading the log")
    log = site_log(reads_question=policy.reads_question)
    pulls, totals = log.priors
    if estimate.priors == PolicyEstimate.Priors.NONE:
        pulls, totals = 0 * pulls, 0 * totals
    for (category, agent), mean in _run_scores(estimate).items():
        if category in log.rounds.stratum_names and agent in log.rounds.arms:
            place = log.rounds.stratum_names.index(category), log.rounds.arms.index(agent)
            pulls[place], totals[place] = estimate.run_pulls, estimate.run_pulls * mean
    if estimate.prior_agent:
        if estimate.prior_agent not in log.rounds.arms:
            raise InvalidInput(
                f"The log has no rated answer of {estimate.prior_agent!r}, so nothing is known of it. Agents in the log: "
                f"{', '.join(log.rounds.arms)}.",
                field="prior_agent",
            )
        arm = log.rounds.arms.index(estimate.prior_agent)
        pulls[:, arm], totals[:, arm] = estimate.prior_pulls, estimate.prior_pulls * estimate.prior_mean
    target = policy_probabilities(
        log.rounds, policy, priors=(pulls, totals), min_share=estimate.min_share, embeddings=log.embeddings,
        progress=lambda part: progress(0.1 + 0.8 * part, "walking through the log"),
    )  # fmt: skip
    rounds, target = log.judged(target)
    traffic = {arm: float(share) for arm, share in zip(rounds.arms, target.mean(axis=0), strict=True)}
    return {"policy": policy.kind, **estimated(rounds, target), "left_out": log.left_out, "traffic": traffic}


def _rule(estimate: PolicyEstimate) -> Any:
    if estimate.kind not in POLICIES:
        raise InvalidInput(f"Unknown policy {estimate.kind!r}; there are {', '.join(POLICIES)}.", field="kind")
    try:
        policy = POLICIES[estimate.kind].from_parameters(estimate.parameters)
    except ValueError as error:
        raise InvalidInput(str(error), field="parameters") from error
    return policy


def _run_scores(estimate: PolicyEstimate) -> dict[tuple[str, str], float]:
    """What the eval run puts in place of the priors that are set, as its button would. Raises InvalidInput, Conflict."""
    if estimate.priors != PolicyEstimate.Priors.RUN:
        return {}
    if estimate.prior_run is None:
        raise InvalidInput("Choose the eval run whose scores are to be the priors.", field="prior_run")
    return evalrun_scores(estimate.prior_run)
