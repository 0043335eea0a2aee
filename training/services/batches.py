"""A distillation by the provider's batch API: sent once, found again after a kill, paid by what its results say."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence

from django.db import transaction

from adaptrag.common.jobs import JobContext
from agents.errors import ChatModelUnavailable
from agents.llm.base import Completion, Usage
from agents.llm.batches import MOST_REQUESTS, BatchChatModel
from training.distillation import Item, judged, teacher_chat
from training.errors import TrainingFailed
from training.models import DistillationRun
from training.services.answers import answer_keep, items_named
from training.services.teachers import MAX_TOKENS, budget_reserve, budget_settle, most

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two looks at the batch


def batch_ask(run: DistillationRun, items: Sequence[Item], context: JobContext) -> tuple[int, int, bool]:
    """Send the items, or go on with the batch that an earlier attempt sent; how many are answered, how many failed, and whether
    the budget left some out. Raises TrainingFailed where the server refuses the batch, ChatModelUnavailable."""
    server = BatchChatModel(run.model, run.options)
    if run.parameters.get("sent") and not run.batch_id:
        # Killed between sending and noting its id: the label was noted before.
        run.batch_id = server.find(run.parameters["sent"]["label"])
        run.save(update_fields=["batch_id"])
        if not run.batch_id:
            _settle(run)
    if not run.batch_id and not _send(run, items, server):
        return 0, 0, True
    _wait(run, server, context)
    return _collect(run, server)


def _send(run: DistillationRun, items: Sequence[Item], server: BatchChatModel) -> bool:
    """Whether the budget had room for any."""
    samples = run.parameters["samples"]
    chats, reserved, stopped, asked = {}, 0, False, 0
    for item in items:
        if len(chats) + samples > MOST_REQUESTS:
            break
        amount = most(item, run.options, samples)
        if not budget_reserve(run.budget, amount):
            stopped = True
            break
        reserved, asked = reserved + amount, asked + 1
        messages = teacher_chat(item.prompt)
        for number in range(len(item.said), samples):
            chats[f"{item.key}:{number}"] = (messages, 0.7 if number else 0.0)
    if not chats:
        return False
    label = f"adaptrag-{secrets.token_hex(8)}"
    run.parameters["sent"] = {"label": label, "reserved": reserved, "asked": asked, "stopped": stopped}
    run.save(update_fields=["parameters"])
    try:
        run.batch_id = server.send(chats, max_tokens=MAX_TOKENS, label=label)
    except ChatModelUnavailable as error:
        if error.details.get("refused"):
            _settle(run)
        raise
    run.save(update_fields=["batch_id"])
    return True


def _wait(run: DistillationRun, server: BatchChatModel, context: JobContext) -> None:
    pause = FIRST_PAUSE
    while True:
        try:
            batch = server.look(run.batch_id)
        except ChatModelUnavailable as error:
            if not error.details.get("unknown_batch"):
                raise
            number = run.batch_id
            _settle(run)
            raise TrainingFailed(f"The server does not know batch {number} any more; resumed, another is sent.") from error
        if batch.status == "failed":
            _settle(run)
            raise TrainingFailed(f"The server refused the batch: {batch.error or 'it gives no reason'}")
        words = f"batch {run.batch_id}: {batch.status}, {batch.done} of {batch.total} done"
        context.progress(batch.done / batch.total if batch.total else 0.0, words)
        if batch.ended:
            return
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            context.progress(0.0)  # notices a cancel
        pause = min(LONGEST_PAUSE, 1.5 * pause)


def _collect(run: DistillationRun, server: BatchChatModel) -> tuple[int, int, bool]:
    """Keep what came, all in one transaction: a kill in it leaves the batch to be read again."""
    results = server.results(run.batch_id)
    numbers: dict[str, list[int]] = defaultdict(list)
    for name in results:
        key, _, number = name.rpartition(":")
        numbers[key].append(int(number))
    sent, done = run.parameters["sent"], 0
    with transaction.atomic():
        for item in items_named(run, numbers):
            came = [results[f"{item.key}:{number}"] for number in sorted(numbers[item.key])]
            good = [one for one in came if isinstance(one, Completion)]
            failure = next((one.message for one in came if not isinstance(one, Completion)), "")
            texts = (*item.said, *(one.text.strip() for one in good))
            if len(texts) < run.parameters["samples"]:
                failure = failure or "A sample is missing in the batch's results."
            taught = judged(
                item, texts, failure=failure, model=item.model or (good[0].model if good else ""),
                usage=sum((one.usage for one in good), Usage()),
            )  # fmt: skip
            answer_keep(run, taught, reserved=0)
            done += not taught.failed
        _settle(run)
    return done, sent["asked"] - done, sent["stopped"]


def _settle(run: DistillationRun) -> None:
    """The batch is no more: give back what was reserved for it, and let the next attempt send another."""
    with transaction.atomic():
        budget_settle(run.budget_id, reserved=run.parameters.pop("sent")["reserved"], cost=0)
        run.batch_id = ""
        run.save(update_fields=["parameters", "batch_id"])
