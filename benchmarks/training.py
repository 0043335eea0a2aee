"""Training: token F1 of the student before and after 15 and 100 steps, beside a plain LoRA with transformers' Trainer.

Tokens a second are real tokens, without padding, by the wall clock of the Trainer's loop, on both sides.

Questions of a BEIR folder with their gold passages, in the prompt of `lora_rag`. Those whose hash is lowest are held out and
asked; the others are trained on. Each training and each examination is a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrag.common.errors import InvalidInput
from benchmarks.measured import BenchmarkFailed, Measured

PLAIN = "plain LoRA, transformers Trainer, {} (r 16, lr 5e-4, padded)"
MEASURED = ("tokens_per_second", "peak_memory_bytes", "seconds")  # of a training; null where there was none
AVERAGED = ("token_f1", "exact_match", "asking_seconds", "tokens_per_second", "seconds")
JUDGED = ("queries.jsonl", "qrels/test.tsv")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="a BEIR folder with answers; a part of it is held out")
    parser.add_argument("--eval-dataset", type=Path, help="another BEIR folder to ask instead of the held-out part")
    parser.add_argument("--model", default="smollm2", help="the student (smollm2)")
    parser.add_argument("--steps", default="15,100", help="lengths of the trainings (15,100)")
    parser.add_argument("--questions", type=int, default=300, help="asked, and held out (300)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (3)")
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain LoRA")
    parser.add_argument(
        "--from-feedback", action="store_true", help="also train on what simulated users rate and correct, and on that alone"
    )
    parser.add_argument("--rounds", type=int, default=300, help="that they play (300)")
    parser.add_argument("--correct-rate", type=float, default=0.3, help="share of poor answers that they correct (0.3)")
    parser.add_argument(
        "--keep", type=Path, help="a folder that keeps what was measured: the same call, of the same code, goes on from there"
    )


def run(options: dict[str, Any], progress: Callable[[float, str], Any]) -> list[dict[str, Any]]:
    """Rows {model, steps, seed, token_f1, low, high, over_base, over_plain, exact_match, n, tokens_per_second,
    peak_memory_bytes, seconds}; seconds from cold, what is over another as [mean, low, high] of the differences.

    Of each kind and length one a seed, and with several seeds their mean. The plain LoRA is trained in fp32, which the speed is
    compared with, and where the processor multiplies bf16 in that too.
    """
    from django.conf import settings

    from agents.ingestion.beir import corpus_file
    from agents.llm.weights import model_folder
    from agents.strategies.lora_rag import LoraRAG
    from training.lora import precision_for

    steps = [int(part) for part in options["steps"].split(",")]
    known = read(options["dataset"])
    held_out, rest = known[: options["questions"]], known[options["questions"] :]
    asked = read(options["eval_dataset"])[: options["questions"]] if options["eval_dataset"] else held_out
    if not rest or not asked:
        raise InvalidInput(f"{options['dataset']} has {len(known)} answered questions with passages: too few to hold some out.")
    base = {
        "model": str(model_folder(options["model"])),
        "asked": [[one.messages, one.answers] for one in asked],
        "max_tokens": LoraRAG.Parameters().max_tokens,
    }
    precisions = [] if options["no_plain"] else dict.fromkeys(("fp32", precision_for("auto")))
    name, gold = options["model"], [[*one.messages, {"role": "assistant", "content": one.answers[0]}] for one in rest]
    kinds = [(PLAIN.format(one), steps[0], {"kind": "plain", "precision": one, "chats": gold}) for one in precisions]
    kinds += [(f"{name} + adapter", count, {"kind": "own", "chats": gold}) for count in steps]
    rows = []
    parts = [corpus_file(options["dataset"]), *(options["dataset"] / name for name in JUDGED)]
    files = [*parts, *sorted(Path(base["model"]).glob("*.safetensors"))]
    with (
        tempfile.TemporaryDirectory(prefix="adaptrag-training-") as folder,
        Measured(Path(folder), options["keep"], files) as child,
    ):
        if options["from_feedback"]:
            progress(0, f"{options['rounds']} rounds with simulated users")
            spec = {
                "kind": "feedback", "model": name, "dataset": str(options["dataset"].resolve()), "seed": 0,
                "held_out": [one.key for one in held_out], "models_dir": str(settings.ADAPTRAG_MODELS_DIR),
                "rounds": options["rounds"], "correct_rate": options["correct_rate"],
            }  # fmt: skip
            found = child(spec)
            if found["source"] == "builtin":
                raise BenchmarkFailed("Nothing that the simulated users rated or corrected can be learned from: more --rounds.")
            words = f"{name} + adapter from feedback ({options['rounds']} rounds, {len(found['chats'])} examples)"
            kinds += [(words, count, {"kind": "own", "chats": found["chats"]}) for count in steps]
        jobs: list[tuple[str, int, int | None, dict[str, Any]]] = [(name, 0, None, {})]
        kinds.sort(key=lambda kind: kind[1])  # the short ones of all seeds first
        jobs += [
            (title, count, seed, spec)
            for _, alike in itertools.groupby(kinds, key=lambda kind: kind[1])
            for seed, (title, count, spec) in itertools.product(range(options["seeds"]), list(alike))
        ]
        for number, (title, count, seed, spec) in enumerate(jobs):
            progress(number / len(jobs), f"{title}, {count} steps")
            trained: dict[str, Any] = dict.fromkeys(MEASURED) | {"folder": None}
            if spec:
                trained = child(spec | {"model": base["model"], "steps": count, "seed": seed})
            scores = child(base | {"kind": "ask", "trained": trained.pop("folder")})
            del scores["folder"]
            rows.append({"model": title, "steps": count, "seed": seed, **scores, **trained})
    progress(1, "")
    return with_intervals(with_means(rows))


def with_means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and behind those of several seeds their mean, whose `scores` are each question's mean over the seeds."""
    found: list[dict[str, Any]] = []
    for same in _kinds(rows).values():
        found += same
        if len(same) > 1:
            means = {name: sum(row[name] for row in same) / len(same) for name in same[0] if name in AVERAGED}
            scores = [sum(of_one) / len(same) for of_one in zip(*(row["scores"] for row in same), strict=True)]
            peak = max(row["peak_memory_bytes"] for row in same)
            found.append(same[0] | means | {"seed": "mean", "peak_memory_bytes": peak, "scores": scores})
    return found


def with_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In place of `scores` 95 % intervals over questions: of token F1, and of what it is above the base and the plain LoRA.

    A row is compared with the first plain LoRA (that in fp32) of as many steps and the same seed, a mean with the mean.
    """
    from evals.statistics import compare, mean_interval

    base = next((row for row in rows if not row["steps"]), None)
    plain: dict[tuple[int, Any], dict[str, Any]] = {}
    for row in rows:
        if _is_plain(row):
            plain.setdefault((row["steps"], row["seed"]), row)
    found = []
    for row in rows:
        estimate = mean_interval(row["scores"])
        figures: dict[str, Any] = {"low": estimate.low, "high": estimate.high}
        others = {
            "over_base": base if row["steps"] else None,
            "over_plain": None if _is_plain(row) else plain.get((row["steps"], row["seed"])),
        }
        for name, other in others.items():
            (one,) = compare({"it": row["scores"], "other": other["scores"]}, "other") if other else [None]
            figures[name] = [one.difference, one.low, one.high] if one else None
        found.append({name: value for name, value in row.items() if name != "scores"} | figures)
    return found


def _is_plain(row: dict[str, Any]) -> bool:
    return row["model"].startswith("plain")


def _kinds(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    kinds: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["model"], row["steps"]), []).append(row)
    return kinds


@dataclass(frozen=True, kw_only=True)
class Question:
    key: str
    messages: list[dict[str, str]]
    answers: list[str]


def read(dataset: Path) -> list[Question]:
    """The questions that have answers and gold passages, by the hash of their id. Raises InvalidInput for another folder."""
    from agents.ingestion.beir import corpus_file, read_corpus
    from agents.retrieval.base import Passage
    from agents.strategies.base import AgentRequest
    from agents.strategies.lora_rag import LoraRAG
    from agents.strategies.prompt import answer_messages

    for name in JUDGED:
        if not (dataset / name).is_file():
            raise InvalidInput(f"{dataset} has no {name}: it is not a BEIR folder with judgements.")
    if (corpus := corpus_file(dataset)) is None:
        raise InvalidInput(f"{dataset} has no corpus.jsonl, nor one with .gz.")
    texts = {one.id: one for one in read_corpus(corpus)}
    gold: dict[str, list[str]] = {}
    for line in (dataset / "qrels/test.tsv").read_text().splitlines()[1:]:
        question, document, gain = line.split("\t")
        if int(gain) > 0 and document in texts:
            gold.setdefault(question, []).append(document)
    found = []
    for line in (dataset / "queries.jsonl").read_text().splitlines():
        row = json.loads(line)
        answers = (row.get("metadata") or {}).get("answers")
        if not answers or row["_id"] not in gold:
            continue
        passages = [
            Passage(
                chunk_id=rank, document_id=rank, document=texts[key].title, text=texts[key].text, score=1.0, rank=rank,
                retriever="gold",
            )
            for rank, key in enumerate(gold[row["_id"]], start=1)
        ]  # fmt: skip
        parameters = LoraRAG.Parameters()
        request = AgentRequest(question=row["text"].strip(), collection=None)
        messages = answer_messages(request, passages[: parameters.prompt_passages], parameters)
        digest = hashlib.sha256(row["_id"].encode()).hexdigest()
        found.append((digest, Question(key=row["_id"], messages=[one.as_dict() for one in messages], answers=answers)))
    return [question for _, question in sorted(found, key=lambda pair: pair[0])]
