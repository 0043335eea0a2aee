"""Child processes that live and die with their parent: started, watched, restarted with a growing pause, stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adaptrag.common.processes import die_with_parent

LONGEST_PAUSE = 30.0
STEADY_AFTER = 60.0  # a child that ran this long starts over with the shortest pause
LOG_LIMIT = 5 * 2**20


@dataclass(frozen=True, kw_only=True)
class Program:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Child:
    program: Program
    process: subprocess.Popen
    started: float
    pause: float = 1.0
    restart_at: float | None = None


class Supervisor:
    """Runs programs, one process group each, with their output in `logs`/NAME.log. `report` gets a line for each event."""

    def __init__(self, logs: Path, report: Callable[[str], None]) -> None:
        self.logs = logs
        self.report = report
        self.children: dict[str, _Child] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, program: Program) -> None:
        self.children[program.name] = _Child(program=program, process=self._spawn(program), started=time.monotonic())

    def pids(self) -> dict[str, int]:
        return {name: child.process.pid for name, child in self.children.items()}

    def watch(self) -> None:
        """Restart what has died, once its pause is over. Call it again and again."""
        now = time.monotonic()
        for name, child in self.children.items():
            if child.restart_at is None and child.process.poll() is not None:
                if now - child.started > STEADY_AFTER:
                    child.pause = 1.0
                child.restart_at = now + child.pause
                self._end_group(child, signal.SIGKILL)  # workers that it left behind
                how = _how(child.process.returncode)
                self.report(f"{name} {how}; starting it again in {child.pause:.0f} s. Its log: {self.log(name)}")
                child.pause = min(LONGEST_PAUSE, child.pause * 2)
            elif child.restart_at is not None and now >= child.restart_at:
                child.process, child.started, child.restart_at = self._spawn(child.program), now, None

    def dead(self) -> list[str]:
        return [name for name, child in self.children.items() if child.process.poll() is not None]

    def stop(self, grace: float = 10.0) -> None:
        """End every child: asked first, killed after `grace` seconds, with everything in its process group."""
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + grace
        for child in self.children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            self._end_group(child, signal.SIGKILL)
            child.process.wait()
        self.children.clear()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines that a child wrote."""
        with self.log(name).open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - 16_384))
            return "\n".join(handle.read().decode(errors="replace").splitlines()[-lines:])

    def _spawn(self, program: Program) -> subprocess.Popen:
        log = self.log(program.name)
        if log.exists() and log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            return subprocess.Popen(
                program.command,
                env={**os.environ, **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # SIGTERM and not SIGKILL: the queue ends its own workers then.
                preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),
            )

    @staticmethod
    def _end_group(child: _Child, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
