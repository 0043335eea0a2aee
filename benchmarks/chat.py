"""The local chat model by form of its weights: what each loses in quality and gains in speed, beside plain transformers.

Perplexity and agreement are those of reading a text token by token, eight passages at once; agreement is the share of places
where the likeliest next token is that of fp32 transformers. Speeds are tokens a second: reading a prompt of 512 tokens, writing
behind it alone and for eight at once; each figure is the best of some short runs, on one thread and on all cores.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

ROWS = 8
PROMPT = 512


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="", help="a folder or a hub's name (the shipped model)")
    parser.add_argument("--text", type=Path, nargs="+", help="files to read for perplexity (the handbook)")
    parser.add_argument("--tokens", type=int, default=192, help="of each of eight passages (192)")
    parser.add_argument("--steps", type=int, default=24, help="tokens of each timed answer (24)")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {form, perplexity, agreement} and {form, threads, prompt_.., answer_.., eight_tokens_per_second}."""
    import torch
    from transformers import AutoTokenizer

    from agents.errors import ChatModelUnavailable
    from agents.llm.runner import load_runner
    from agents.llm.weights import model_folder

    folder = model_folder(options["model"])
    files = options["text"] or sorted((settings.BASE_DIR / "docs").glob("*.md"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("\n\n".join(path.read_text() for path in files), return_tensors="pt")["input_ids"][0]
    ids = ids[: len(ids) // ROWS * ROWS].view(ROWS, -1)[:, : options["tokens"]]
    threads = sorted({1, len(os.sched_getaffinity(0))})
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        progress(0.02, "transformers, fp32")
        reference, logits = _transformers(folder, ids)
        rows.append({"form": "transformers fp32", "perplexity": _perplexity(logits, ids), "agreement": 1.0})
        likeliest = logits.argmax(-1)
        for count in threads:
            torch.set_num_threads(count)
            rows.append({"form": "transformers fp32", "threads": count} | _transformers_speed(reference, options["steps"]))
        del reference
        for done, form in enumerate(("fp32", "bf16", "int8")):
            progress(0.25 + 0.25 * done, form)
            try:
                runner = load_runner(folder, form)
            except ChatModelUnavailable as error:
                rows.append({"form": form, "note": error.message})
                continue
            torch.set_num_threads(1)
            logits = _read(runner, ids)
            agreement = float((logits.argmax(-1) == likeliest).float().mean())
            rows.append({"form": form, "perplexity": _perplexity(logits, ids), "agreement": round(agreement, 4)})
            for count in threads:
                torch.set_num_threads(count)
                rows.append({"form": form, "threads": count} | _speed(runner, options["steps"]))
    return rows


def _perplexity(logits: Any, ids: Any) -> float:
    """Of the tokens after the first 20 of each row. Shapes (rows, T, vocabulary) and (rows, T)."""
    from torch.nn.functional import cross_entropy

    loss = cross_entropy(logits[:, 20:-1].flatten(0, 1), ids[:, 21:].flatten())
    return round(math.exp(float(loss)), 3)


def _transformers(folder: Path, ids: Any) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
    return model, torch.cat([model(input_ids=row[None]).logits for row in ids])


def _read(runner: Any, ids: Any) -> Any:
    import torch

    from agents.llm.kv import Batch, KVCache

    cache = KVCache()
    cache.resize(*ids.shape)
    places = torch.arange(ids.shape[1])
    steps = [
        runner.forward(ids[:, at : at + 1], cache, Batch.of(0, places[at].expand(len(ids))[:, None], runner.dtype))
        for at in range(ids.shape[1])
    ]
    return torch.stack(steps, 1)


def _speed(runner: Any, steps: int) -> dict[str, float]:
    import torch

    from agents.llm.engine import CHUNK
    from agents.llm.kv import Batch, KVCache

    cache = KVCache()
    cache.resize(ROWS, PROMPT + steps)
    ids = torch.arange(PROMPT)[None] % 1000 + 100

    def read() -> None:
        for at in range(0, PROMPT, CHUNK):
            places = torch.arange(at, at + CHUNK)[None]
            runner.forward(ids[:, at : at + CHUNK], cache, Batch.of(0, places, runner.dtype))

    def answer(rows: int) -> None:
        for step in range(steps):
            places = torch.full((rows, 1), PROMPT + step)
            runner.forward(torch.full((rows, 1), 7), cache, Batch.of(0, places, runner.dtype))

    return {
        "prompt_tokens_per_second": round(PROMPT / _best(read), 1),
        "answer_tokens_per_second": round(steps / _best(lambda: answer(1)), 1),
        "eight_tokens_per_second": round(ROWS * steps / _best(lambda: answer(ROWS)), 1),
    }


def _transformers_speed(model: Any, steps: int) -> dict[str, float]:
    import torch

    ids = torch.arange(PROMPT)[None] % 1000 + 100
    began = time.perf_counter()
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    read = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(steps):
        output = model(input_ids=torch.full((1, 1), 7), past_key_values=output.past_key_values, use_cache=True)
    return {
        "prompt_tokens_per_second": round(PROMPT / read, 1),
        "answer_tokens_per_second": round(steps / (time.perf_counter() - began), 1),
    }


def _best(timed: Callable[[], None], repeats: int = 3) -> float:
    """Seconds of the fastest of some runs, the first not counted."""
    timed()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        timed()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
