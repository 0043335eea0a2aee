"""How many threads compute: measured, because two that share cores with other programs can be ten times slower than one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

# Under less than that a second thread is not worth what it takes from the other programs of the machine.
_GAIN = 0.85
_FIRST, _LATER = 30.0, 600.0  # seconds of idleness; the first measurement falls into the start of the other programs


class Threads:
    """`probe(n)` runs one pass over n tokens. `prompt` and `answer` are the threads for reading and for writing."""

    def __init__(self, probe: Callable[[int], None], *, chunk: int, fixed: int = 0) -> None:
        self._probe, self._chunk, self._fixed = probe, chunk, fixed
        self.prompt = self.answer = fixed or 1
        self._measured = 0

    def measure(self) -> None:
        """Choose; takes about a second with the shipped model. Also the warm-up."""
        cores = len(os.sched_getaffinity(0))
        self._measured += 1
        if self._fixed or cores == 1:
            for tokens in (self._chunk, 1):
                self._probe(tokens)
            return
        self.prompt = self._best(self._chunk, cores, repeats=3)
        self.answer = self._best(1, cores, repeats=8)
        logger.info("Threads of the chat model: %d for prompts, %d for answers", self.prompt, self.answer)

    def until_next(self) -> float:
        """Seconds of idleness after which it is worth measuring again."""
        return _FIRST if self._measured == 1 else _LATER

    def use(self, count: int) -> None:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)

    def _best(self, tokens: int, cores: int, repeats: int) -> int:
        # In turns, so that a moment of load hits both.
        fastest = {1: float("inf"), cores: float("inf")}
        for turn in range(repeats + 1):
            for count in fastest:
                self.use(count)
                began = time.perf_counter()
                self._probe(tokens)
                if turn:  # the first warms up
                    fastest[count] = min(fastest[count], time.perf_counter() - began)
        return cores if fastest[cores] < _GAIN * fastest[1] else 1
