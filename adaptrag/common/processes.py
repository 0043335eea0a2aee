"""Names of processes that tell, on the same machine, whether the process still lives."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import signal
import socket
import sys
from pathlib import Path


@functools.cache
def _machine() -> str:
    """This boot and process-id namespace: in another one the same number is another process. Empty without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:8]


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of a process; empty if it is gone or only waits to be reaped (proc(5), stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def process_name(pid: int) -> str:
    """`host:pid@machine.start`, unique for good: numbers are used again, pairs of number and start time are not."""
    return f"{socket.gethostname()}:{pid}@{_machine()}.{_start_time(pid)}"


def process_is_gone(name: str) -> bool:
    """True if the named process ran on this machine and certainly runs no more; False where that can't be known."""
    address, _, stamp = name.rpartition("@")
    machine, _, started = stamp.partition(".")
    pid = address.rpartition(":")[2]
    if not (machine and started and pid.isdigit()) or machine != _machine():
        return False
    return _start_time(int(pid)) != started


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as its parent is gone (prctl(2), PR_SET_PDEATHSIG; Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, number, 0, 0, 0)
