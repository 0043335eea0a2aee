"""The batch API of an OpenAI-compatible server: a file of requests, answered within a day, usually at half the price."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from adaptrag.common.errors import AdaptRAGError
from agents.errors import ChatModelUnavailable
from agents.llm.base import Completion, Message
from agents.llm.openai_compatible import OpenAICompatibleChatModel

ENDPOINT = "/v1/chat/completions"
MOST_REQUESTS = 50_000  # of one batch, by OpenAI's limit
RETRIES = 5
LISTED = 1000  # newest batches that are looked through
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """How far a batch is. error: why the server took none of it."""

    status: str
    done: int
    total: int
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class BatchChatModel(OpenAICompatibleChatModel):
    """Model and options as of OpenAICompatibleChatModel. Every method raises ChatModelUnavailable; where the server refused (a
    status under 500), its details hold `refused`."""

    def send(self, chats: Mapping[str, tuple[Sequence[Message], float]], *, max_tokens: int, label: str) -> str:
        """Send {key: (messages, temperature)} as a batch; returns its id. `find` knows it by its label."""
        lines = (
            {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": self._request(messages, max_tokens, temperature)}
            for key, (messages, temperature) in chats.items()
        )
        raw = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()
        with self._told():
            file = self._patient().files.create(file=("requests.jsonl", raw), purpose="batch")
            # Sent once: a second try behind a lost reply would be a second batch, and be paid for.
            batch = self._connected().batches.create(
                input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"label": label}
            )
        return batch.id

    def find(self, label: str) -> str:
        """The id of the batch with that label; "" if there is none."""
        with self._told():
            newest = itertools.islice(self._patient().batches.list(limit=100), LISTED)
            return next((batch.id for batch in newest if (batch.metadata or {}).get("label") == label), "")

    def look(self, batch_id: str) -> Batch:
        with self._told():
            batch = self._patient().batches.retrieve(batch_id)
        counts = batch.request_counts
        errors = [one.message or one.code or "" for one in (batch.errors.data if batch.errors else None) or ()]
        return Batch(
            status=batch.status,
            done=counts.completed + counts.failed if counts else 0,
            total=counts.total if counts else 0,
            error="; ".join(errors)[:300],
        )

    def results(self, batch_id: str) -> dict[str, Completion | AdaptRAGError]:
        """What each request came to, those that failed as their error. Requests that an expired batch left may be missing."""
        found: dict[str, Completion | AdaptRAGError] = {}
        with self._told():
            client = self._patient()
            batch = client.batches.retrieve(batch_id)
            texts = [client.files.content(file).text for file in (batch.error_file_id, batch.output_file_id) if file]
        for line in itertools.chain.from_iterable(text.splitlines() for text in texts):
            if line.strip():
                row = json.loads(line)
                found[row["custom_id"]] = self._result(row)
        return found

    def _result(self, row: dict[str, Any]) -> Completion | AdaptRAGError:
        from openai.types.chat import ChatCompletion

        response = row.get("response") or {}
        body = response.get("body") or {}
        if error := row.get("error") or body.get("error"):
            return ChatModelUnavailable(f"{self._who()} answered: {error.get('message') or error.get('code')}", model=self.name)
        try:
            return self._read(ChatCompletion.construct(**body))
        except AdaptRAGError as failure:
            return failure

    def _patient(self) -> Any:
        return self._connected().with_options(max_retries=RETRIES)

    @contextmanager
    def _told(self) -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APITimeoutError as error:
            raise self._late() from error
        except openai.APIStatusError as error:
            if error.status_code in (404, 405, 501):
                raise ChatModelUnavailable(
                    f"{self._who()} has no batch API, or not this batch (status {error.status_code}). Ask without --batch.",
                    refused=True,
                    unknown_batch=True,
                ) from error
            told = self._refused(error)
            told.details["refused"] = error.status_code < 500
            raise told from error
        except (openai.OpenAIError, ValueError) as error:
            raise ChatModelUnavailable(f"{self._who()} can't be reached: {error}", model=self.name) from error
