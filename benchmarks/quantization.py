"""Quantization: size, speed and quality of a model's builds, modes side by side, ratios against fp32 of the same run.

Each mode runs in a process of its own, on one thread, in as many rounds as asked, all modes in turns; figures are medians of
the rounds. Questions of a BEIR folder are asked with their gold passages, in the prompt of `quantized_rag`; fp32 is run by
transformers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="a BEIR folder with answers")
    parser.add_argument("--model", default="smollm2", help="(smollm2)")
    parser.add_argument("--adapter", type=Path, help="an adapter's folder, merged into the model first")
    parser.add_argument("--modes", default="bf16,int8,nf4,cpu8", help="beside fp32 (bf16,int8,nf4,cpu8)")
    parser.add_argument("--questions", type=int, default=40, help="answered by every mode (40)")
    parser.add_argument("--rounds", type=int, default=2, help="of timing, in turns (2)")
    parser.add_argument("--prompts", default="64,384", help="lengths of timed prompts, in tokens (64,384)")


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """A row a mode; `x ...` are ratios to fp32, f1_difference is paired, with its 95 % interval."""
    from agents.llm.weights import model_folder
    from benchmarks.training import read
    from evals.metrics import token_f1
    from evals.statistics import compare
    from training.measuring import Questions, measure
    from training.quantization import quantize
    from training.services.quantizations import examples

    base, modes = model_folder(options["model"]), ["fp32", *options["modes"].split(",")]
    known = read(options["dataset"])
    asked = known[: options["questions"]]
    # Calibrated by questions that nobody is asked here.
    chats = [[*one.messages, {"role": "assistant", "content": one.answers[0]}] for one in known[-24:]] + examples(None)
    whole = Questions(chats=tuple(tuple(one.messages) for one in asked), prompt=0, max_tokens=32)
    lengths = [int(part) for part in options["prompts"].split(",")]
    jobs = 2 * len(modes) + options["rounds"] * len(modes) * len(lengths)
    done = 0
    timed: dict[str, dict[str, list[float]]] = {mode: {} for mode in modes}
    sizes: dict[str, Any] = {}
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="adaptrag-quantization-") as aside:
        work = Path(aside)
        folders = {}
        for mode in modes:
            progress(done / jobs, f"building {mode}")
            began = time.perf_counter()
            merged = quantize(base, options["adapter"], mode, work / mode, work=work, chats=chats)
            folders[mode] = merged if mode == "fp32" else work / mode
            timed[mode]["build_seconds"] = [time.perf_counter() - began]
            done += 1
        for _ in range(options["rounds"]):
            for length in lengths:
                for mode in modes:
                    progress(done / jobs, f"timing {mode}, prompts of {length}")
                    found = measure(folders[mode], replace(whole, chats=(), prompt=length), plain=mode == "fp32")
                    for name, value in (
                        (f"read_{length}", found.prefill_tokens_per_second),
                        (f"write_{length}", found.decode_tokens_per_second),
                        (f"write_8_{length}", found.decode_8_tokens_per_second),
                        ("load_seconds", found.load_seconds), ("weights_mb", found.weights_bytes / 1e6),
                        ("peak_mb", found.peak_memory_bytes / 1e6),
                    ):  # fmt: skip
                        timed[mode].setdefault(name, []).append(value)
                    done += 1
        for mode in modes:
            progress(done / jobs, f"asking {mode}")
            found = measure(folders[mode], whole, plain=mode == "fp32")
            scores[mode] = [token_f1(text, one.answers) for text, one in zip(found.answers, asked, strict=True)]
            sizes[mode] = found
            done += 1
    against = {one.agent: one for one in compare(scores, "fp32")}
    medians = {mode: {name: statistics.median(values) for name, values in timed[mode].items()} for mode in modes}
    rows = []
    for mode in modes:
        own, before, found = medians[mode], medians["fp32"], sizes[mode]
        row: dict[str, Any] = {
            "mode": mode,
            "disk_mb": round(found.bytes_on_disk / 1e6),
            "weights_mb": round(own["weights_mb"]),
        }
        row["x weights"] = round(own["weights_mb"] / before["weights_mb"], 3)
        for length in lengths:
            row[f"read_{length}"] = round(own[f"read_{length}"])
            for name, base_name in ((f"write_{length}", f"write_{length}"), (f"write_8_{length}", f"write_{length}")):
                row[name] = round(own[name], 1)
                row[f"x {name}"] = round(own[name] / before[base_name], 1)
        row |= {"load_seconds": round(own["load_seconds"], 1), "peak_mb": round(own["peak_mb"])}
        row |= {"first_token_ms_p50": found.first_token_ms["p50"], "first_token_ms_p95": found.first_token_ms["p95"]}
        row |= {"answer_ms_p50": found.latency_ms["p50"], "answer_ms_p95": found.latency_ms["p95"]}
        row |= {"token_f1": round(statistics.fmean(scores[mode]), 3), "n": len(asked)}
        if mode != "fp32":
            one = against[mode]
            row |= {"f1_difference": round(one.difference, 3), "interval": [round(one.low, 3), round(one.high, 3)]}
        rows.append(row)
    progress(1, "")
    return rows
