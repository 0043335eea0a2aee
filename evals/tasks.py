"""The queue's side of evaluation."""

from __future__ import annotations

from typing import Any

from adaptrag.common.jobs import JobContext, register

RUN, RATE, ESTIMATE = "evals.run", "evals.rate", "evals.policy_estimate"


def register_handlers() -> None:
    # Heavy: answers may load a local model, and the memory goes back to the system with the child.
    register(RUN, run_job, heavy=True, queue="long")
    register(RATE, rate_job, heavy=True)
    register(ESTIMATE, estimate_job, heavy=True)


def run_job(context: JobContext) -> dict[str, Any]:
    from evals.services import evalrun_execute

    return evalrun_execute(context.payload["run"], progress=context.progress)


def rate_job(context: JobContext) -> dict[str, Any]:
    from evals.services import interactions_rate

    payload = context.payload
    return interactions_rate(
        payload["interactions"], backend=payload["backend"], model=payload["model"], progress=context.progress
    )


def estimate_job(context: JobContext) -> dict[str, Any]:
    from evals.services.estimates import policyestimate_execute

    return policyestimate_execute(context.payload["estimate"], context.progress)
