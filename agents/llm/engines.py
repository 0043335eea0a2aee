"""The models that one process holds, by name."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from django.conf import settings

from agents.errors import ChatModelOverloaded, ChatModelUnavailable
from agents.llm.engine import Engine
from agents.llm.weights import DEFAULT_MODEL, model_folder

logger = logging.getLogger(__name__)


class Engines:
    """At most `limit` at once (ADAPTRAG_LOCAL_MODELS); the one that was asked least recently goes first."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or settings.ADAPTRAG_LOCAL_MODELS
        self._engines: dict[str, Engine] = {}
        self._adapters: dict[str, tuple[str, Path]] = {}  # base model and folder by the adapter's name
        self._lock = threading.Lock()

    def find(self, name: str) -> tuple[Engine, str]:
        """The engine of a model or of an adapter's base, and the adapter's name ("" for none). Raises as `get` does."""
        if name not in self._adapters:
            return self.get(name), ""
        base, folder = self._adapters[name]
        engine = self.get(base)
        if not engine.has_adapter(name):
            engine.load_adapter(name, folder)
        return engine, name

    def load_adapter(self, name: str, folder: Path, base: str) -> None:
        """Make an adapter askable by its name. A name stands for one folder for good. Raises ChatModelUnavailable."""
        known = self._adapters.get(name)
        if known is not None and known != (base, folder):
            raise ChatModelUnavailable(
                f"The adapter name {name!r} stands for {known[1]} on {known[0]!r} already; names are never used again."
            )
        engine = self.get(base)
        if not engine.has_adapter(name):
            engine.load_adapter(name, folder)
        self._adapters[name] = (base, folder)

    def get(self, name: str) -> Engine:
        """Raises ChatModelUnavailable where there is no such model, and ChatModelOverloaded where none makes room for it."""
        name = name or DEFAULT_MODEL
        with self._lock:
            if name in self._engines:
                self._engines[name] = self._engines.pop(name)
                return self._engines[name]
            folder = model_folder(name)
            if len(self._engines) >= self._limit:
                self._make_room(name)
            logger.info("Loading the chat model %s", name)
            engine = Engine(folder, form=settings.ADAPTRAG_LOCAL_DTYPE, threads=settings.ADAPTRAG_LOCAL_THREADS)
            self._engines[name] = engine
            return engine

    def names(self) -> list[str]:
        return [*self._engines, *self._adapters]

    def describe(self) -> dict[str, dict[str, Any]]:
        return {name: engine.describe() for name, engine in list(self._engines.items())}

    def close(self) -> None:
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].close()

    def _make_room(self, newcomer: str) -> None:
        for name, engine in list(self._engines.items()):
            if not engine.busy:
                logger.info("Unloading the chat model %s", name)
                del self._engines[name]
                engine.close()
                return
        raise ChatModelOverloaded(
            f"All {self._limit} loaded chat models are at work, so {newcomer!r} can't be loaded now; try again in a while, or "
            "let more be loaded at once (ADAPTRAG_LOCAL_MODELS)."
        )
