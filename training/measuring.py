"""What a model folder costs and says, measured in a process of its own. Knows no ORM.

`python -m training.measuring SPEC RESULT` measures; `measure` starts it, so that load time, memory and peak are the model's
alone. The unquantized model is run by transformers, a build by the serving engine's own code.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaptrag.common.processes import die_with_parent
from training.errors import QuantizationFailed

ROOT = Path(__file__).resolve().parent.parent
STEPS, ROWS = 24, 8  # tokens written in a timed answer, and how many answers at once
REPEATS = 2
SKIPPED = 20  # tokens of a passage before perplexity counts


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked: chats that are answered, and a text that is read for perplexity. `tokens`: of each of eight passages.

    prompt: length of the timed prompts, in tokens; 0 times nothing but the chats.
    """

    chats: tuple[tuple[dict[str, str], ...], ...]
    text: str = ""
    max_tokens: int = 24
    tokens: int = 128
    prompt: int = 384


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Times in seconds or milliseconds as named, sizes in bytes. weights_bytes: memory that the loaded model takes,
    packed buffers counted.

    Speeds are means of two runs of a prompt and 24 tokens written behind it, alone and eight at once. Latencies
    are of the chats. answers and likeliest (the likeliest next token at each place of the text) are for comparing.
    """

    bytes_on_disk: int
    load_seconds: float
    weights_bytes: int
    peak_memory_bytes: int
    threads: int
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    prefill_8_tokens_per_second: float | None = None
    decode_8_tokens_per_second: float | None = None
    first_token_ms: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    perplexity: float | None = None
    answers: list[str] = field(default_factory=list)
    likeliest: list[int] = field(default_factory=list)

    def kept(self) -> dict[str, Any]:
        """Without what is for comparing only."""
        return {name: value for name, value in asdict(self).items() if name not in ("answers", "likeliest")}


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near a reloaded build is to the unquantized model. agreement: share of places with the same likeliest token."""

    perplexity: float
    perplexity_rise: float
    agreement: float
    answers: int
    answers_equal: int
    answers_overlap: float


def compare(unquantized: Figures, build: Figures) -> Fidelity:
    """answers_overlap: mean token F1 of the build's answers against the unquantized model's."""
    same = [one == other for one, other in zip(unquantized.likeliest, build.likeliest, strict=True)]
    pairs = list(zip(unquantized.answers, build.answers, strict=True))
    return Fidelity(
        perplexity=build.perplexity,
        perplexity_rise=build.perplexity / unquantized.perplexity - 1,
        agreement=sum(same) / len(same),
        answers=len(pairs),
        answers_equal=sum(one == other for one, other in pairs),
        answers_overlap=statistics.fmean(_overlap(one, other) for one, other in pairs),
    )


def measure(
    folder: Path, questions: Questions, *, plain: bool = False, threads: int = 1, tick: Callable[[], Any] = lambda: None
) -> Figures:
    """Start a process that measures, and wait; `tick` is called twice a second, and what it raises ends the process.

    plain: as transformers runs it, in fp32. Raises QuantizationFailed with the process's last words.
    """
    spec = {"folder": str(folder), "plain": plain, "threads": threads, **asdict(questions)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="adaptrag-measuring-") as aside:
        given, result, words = (Path(aside) / name for name in ("spec.json", "result.json", "stderr"))
        given.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "training.measuring", str(given), str(result)]
        with (
            words.open("w") as stderr,
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stderr, stderr=stderr) as process,
        ):
            try:
                while process.poll() is None:
                    tick()
                    time.sleep(0.5)
            finally:
                process.kill()
        if process.returncode or not result.is_file():
            last = words.read_text().strip().splitlines()
            raise QuantizationFailed(
                f"Measuring {folder.name} ended with exit code {process.returncode}: {' '.join(last[-3:])[-1500:]}"
            )
        return Figures(**json.loads(result.read_text()))


# The measured process ---------------------------------------------------------------------------------------------------


class _Transformers:
    """A model as transformers runs it: many rows of one length at once."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
        self._state: Any = None

    def start(self, rows: int) -> None:
        self._state = None

    def read(self, ids: Any) -> None:
        self._state = self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def write(self, ids: Any) -> Any:
        output = self._model(input_ids=ids, past_key_values=self._state, use_cache=True)
        self._state = output.past_key_values
        return output.logits[:, -1]

    def logits(self, ids: Any) -> Any:
        import torch

        return torch.cat([self._model(input_ids=row[None]).logits for row in ids])

    def answer(self, prompt: list[int], ends: frozenset[int], most: int) -> tuple[list[int], float]:
        """Greedy; the tokens, and seconds to the first."""
        import torch

        began = time.perf_counter()
        output = self._model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        answer = [int(output.logits[0, -1].argmax())]
        first = time.perf_counter() - began
        while answer[-1] not in ends and len(answer) < most:
            output = self._model(input_ids=torch.tensor([answer[-1:]]), past_key_values=output.past_key_values, use_cache=True)
            answer.append(int(output.logits[0, -1].argmax()))
        return answer, first


class _Engine:
    """A model as the serving engine runs it: a prompt in chunks, then a token for every row."""

    def __init__(self, folder: Path) -> None:
        import torch

        from agents.llm.runner import load_runner

        self.runner = load_runner(folder, threads=torch.get_num_threads())

    def start(self, rows: int) -> None:
        from agents.llm.kv import KVCache

        self._cache, self._rows, self._length = KVCache(), rows, 0
        self._cache.resize(rows, min(512, self.runner.window))

    def read(self, ids: Any) -> None:
        import torch

        from agents.llm.engine import CHUNK
        from agents.llm.kv import Batch

        for row in range(self._rows):
            for first in range(0, ids.shape[1], CHUNK):
                part = ids[row : row + 1, first : first + CHUNK]
                places = torch.arange(first, first + part.shape[1])[None]
                self.runner.forward(part, self._cache, Batch.of(row, places, self.runner.dtype))
        self._length = ids.shape[1]

    def write(self, ids: Any) -> Any:
        import torch

        from agents.llm.kv import Batch

        places = torch.full((self._rows, 1), self._length)
        self._length += 1
        return self.runner.forward(ids, self._cache, Batch.of(0, places, self.runner.dtype))

    def logits(self, ids: Any) -> Any:
        import torch

        self.start(len(ids))
        return torch.stack([self.write(ids[:, at : at + 1]) for at in range(ids.shape[1])], 1)


def run(spec: dict[str, Any]) -> Figures:
    import torch
    import transformers  # noqa: F401 its memory is not the model's

    import agents.llm.runner  # noqa: F401
    from agents.llm.prompts import ChatPrompts

    torch.set_num_threads(spec["threads"])
    folder = Path(spec["folder"])
    prompts = ChatPrompts(folder)
    kind = _Transformers if spec["plain"] else _Engine
    with torch.inference_mode():
        began = time.perf_counter()
        model = kind(folder)
        load_seconds = time.perf_counter() - began
        _first_token(model)
        del model
        before = _memory(folder)  # libraries are there now, and what they keep
        model = kind(folder)
        _first_token(model)
        weights = _memory(folder) - before
        speeds = _speeds(model, spec["prompt"]) if spec["prompt"] else {}
        perplexity, likeliest = _perplexity(model, prompts, spec) if spec["text"] else (None, [])
        if spec["plain"]:
            answered = [_plain_answer(model, prompts, chat, spec["max_tokens"]) for chat in spec["chats"]]
    if not spec["plain"]:
        del model
        answered = _engine_answers(folder, spec)
    return Figures(
        bytes_on_disk=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        load_seconds=round(load_seconds, 3),
        weights_bytes=weights,
        peak_memory_bytes=_peak(),
        threads=spec["threads"],
        first_token_ms=_quantiles([first for _, first, _ in answered]),
        latency_ms=_quantiles([whole for _, _, whole in answered]),
        perplexity=perplexity,
        answers=[text for text, _, _ in answered],
        likeliest=likeliest,
        **speeds,
    )


def _first_token(model: Any) -> None:
    import torch

    model.start(1)
    model.read(torch.tensor([[5, 6]]))
    model.write(torch.tensor([[7]]))
    model.start(0)


def _speeds(model: Any, prompt: int) -> dict[str, float]:
    import torch

    found: dict[str, list[float]] = {}
    ids = torch.arange(prompt)[None] % 200 + 10
    for _ in range(REPEATS):
        for rows, name in ((1, ""), (ROWS, "_8")):
            model.start(rows)
            began = time.perf_counter()
            model.read(ids.expand(rows, -1))
            read = time.perf_counter()
            for _ in range(STEPS):
                model.write(torch.full((rows, 1), 7))
            found.setdefault(f"prefill{name}_tokens_per_second", []).append(rows * prompt / (read - began))
            found.setdefault(f"decode{name}_tokens_per_second", []).append(rows * STEPS / (time.perf_counter() - read))
    return {name: round(statistics.fmean(values), 2) for name, values in found.items()}


def _perplexity(model: Any, prompts: Any, spec: dict[str, Any]) -> tuple[float, list[int]]:
    import torch
    from torch.nn.functional import cross_entropy

    tokens = torch.tensor(prompts.tokens(spec["text"]))
    ids = tokens[: len(tokens) // ROWS * ROWS].view(ROWS, -1)[:, : spec["tokens"]]
    logits = model.logits(ids)
    skipped = min(SKIPPED, ids.shape[1] // 2)
    loss = cross_entropy(logits[:, skipped:-1].flatten(0, 1).float(), ids[:, skipped + 1 :].flatten())
    perplexity = math.exp(min(float(loss), 50.0)) if math.isfinite(float(loss)) else math.exp(50.0)
    return perplexity, logits.argmax(-1).flatten().tolist()


def _plain_answer(model: Any, prompts: Any, chat: Sequence[dict[str, str]], most: int) -> tuple[str, float, float]:
    from agents.llm.base import Message

    began = time.perf_counter()
    ids = prompts.encode([Message(**message) for message in chat])
    answer, first = model.answer(ids, prompts.ends, most)
    text = prompts.decode([token for token in answer if token not in prompts.ends])
    return text.strip(), first * 1000, (time.perf_counter() - began) * 1000


def _engine_answers(folder: Path, spec: dict[str, Any]) -> list[tuple[str, float, float]]:
    """One after the other, by the engine that serves."""
    from agents.llm.base import Message
    from agents.llm.engine import Engine, Finished
    from agents.llm.sampling import Sampling

    engine = Engine(folder, threads=spec["threads"])
    answered = []
    for chat in spec["chats"]:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        began = time.perf_counter()
        sampling = Sampling(max_tokens=spec["max_tokens"])
        engine.submit([Message(**message) for message in chat], sampling, events.put, timeout=600)
        pieces, first = [], None
        while not isinstance(event := events.get(), Finished):
            if isinstance(event, BaseException):
                raise event
            first = first or time.perf_counter() - began
            pieces.append(event)
        whole = time.perf_counter() - began
        answered.append(("".join(pieces).strip(), (first or whole) * 1000, whole * 1000))
    engine.close()
    return answered


def _memory(folder: Path) -> int:
    """Bytes of this process in memory that are its own or a file's of the folder."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    total, counted = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
            counted = name.startswith(str(folder.resolve()))
        elif line.startswith("Anonymous:") or (counted and line.startswith("Rss:")):
            total += int(line.split()[1]) * 1024
    return total


def _peak() -> int:
    """Of this program: getrusage's figure also has the memory of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[1]) * 1024


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {f"p{share}": round(ordered[min(len(ordered) - 1, share * len(ordered) // 100)], 1) for share in (50, 95)}


def _overlap(one: str, other: str) -> float:
    """Token F1 of two texts; 1 where both are empty."""
    from collections import Counter

    left, right = (re.findall(r"\w+", text.lower()) for text in (one, other))
    if not left or not right:
        return float(left == right)
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / (len(left) + len(right))


def main(given: Path, result: Path) -> None:
    die_with_parent()
    result.write_text(json.dumps(asdict(run(json.loads(given.read_text())))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
