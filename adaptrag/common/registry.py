"""Which function runs which kind of job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings

from adaptrag.common.errors import InvalidInput

if TYPE_CHECKING:
    from adaptrag.common.context import JobContext

HandlerFunction = Callable[["JobContext"], "dict[str, Any] | None"]


@dataclass(frozen=True, kw_only=True)
class Handler:
    """A kind of job. heavy: in a child process. queue: the cluster that takes it. limit: seconds, None for the setting's."""

    kind: str
    function: HandlerFunction
    heavy: bool = False
    queue: str = "default"
    max_attempts: int = 3
    limit: float | None = None

    @property
    def seconds(self) -> float:
        """The time limit of one attempt."""
        if self.limit is not None:
            return self.limit
        return settings.ADAPTRAG_JOBS_HEAVY_LIMIT if self.heavy else settings.ADAPTRAG_JOBS_LIGHT_LIMIT


HANDLERS: dict[str, Handler] = {}


def register(
    kind: str,
    handler: HandlerFunction,
    *,
    heavy: bool = False,
    queue: str = "default",
    max_attempts: int = 3,
    limit: float | None = None,
) -> None:
    """Name the function that runs jobs of a kind; called from AppConfig.ready, so that every process knows the same ones."""
    HANDLERS[kind] = Handler(kind=kind, function=handler, heavy=heavy, queue=queue, max_attempts=max_attempts, limit=limit)


def handler_for(kind: str) -> Handler:
    """Raises InvalidInput for a kind that no installed app registers."""
    try:
        return HANDLERS[kind]
    except KeyError:
        known = ", ".join(sorted(HANDLERS)) or "none"
        raise InvalidInput(f"No installed app handles jobs of the kind {kind!r}. Registered: {known}.", kind=kind) from None
