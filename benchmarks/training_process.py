"""The measured processes behind `benchmark training`: one training or one examination each."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import RESULT, SPEC

AT_ONCE = 16  # questions given to the engine at a time


def own(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """The product's training with its default recipe."""
    from training.lora import train_lora
    from training.recipe import Recipe

    recipe = Recipe(steps=spec["steps"], seed=spec["seed"])
    done = train_lora(Path(spec["model"]), spec["chats"], [], out, recipe)
    return {"tokens_per_second": done.tokens_per_second, "peak_memory_bytes": done.peak_memory_bytes}


def plain(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """transformers' Trainer and peft as their documentation has them: batches of 8 padded to the longest, all logits."""
    import resource

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from training.encoding import IGNORED, Encoder

    torch.manual_seed(spec["seed"])
    encoder = Encoder(Path(spec["model"]))
    examples = [encoder.encode(chat) for chat in spec["chats"]]
    dtype = torch.bfloat16 if spec["precision"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype, use_safetensors=True)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    counted = {"tokens": 0, "seconds": 0.0, "began": 0.0}

    def collated(batch: Sequence[Any]) -> dict[str, Any]:
        longest = max(map(len, batch))
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, one in enumerate(batch):
            ids[row, : len(one)] = torch.tensor(one.prompt + one.answer)
            mask[row, : len(one)] = 1
            labels[row, len(one.prompt) : len(one)] = torch.tensor(one.answer)
        counted["tokens"] += int(mask.sum())
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            counted["began"] = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            counted["seconds"] = time.perf_counter() - counted["began"]

    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), max_steps=spec["steps"], per_device_train_batch_size=8, learning_rate=5e-4,
        save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False, seed=spec["seed"],
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collated, callbacks=[Clock()]).train()
    model.save_pretrained(out / "adapter")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tokens_per_second": counted["tokens"] / counted["seconds"], "peak_memory_bytes": peak}


def ask(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """The questions put to the serving engine, as agents put them, with the adapter beside the weights."""
    from agents.llm.base import Message
    from agents.llm.engine import Engine
    from agents.llm.sampling import Sampling
    from evals.metrics import exact_match, token_f1

    engine = Engine(Path(spec["model"]))
    if spec["trained"]:
        engine.load_adapter("adapter", out.parent / spec["trained"] / "adapter")
    ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    pieces: list[list[str]] = [[] for _ in spec["asked"]]
    sampling = Sampling(max_tokens=spec["max_tokens"])

    def submit(number: int) -> None:
        def tell(event: Any) -> None:
            pieces[number].append(event) if isinstance(event, str) else ended.put((number, event))

        messages = [Message(**message) for message in spec["asked"][number][0]]
        engine.submit(messages, sampling, tell, timeout=3600, adapter="adapter" if spec["trained"] else "")

    began, count = time.perf_counter(), len(spec["asked"])
    for number in range(min(AT_ONCE, count)):
        submit(number)
    for done in range(count):
        _, event = ended.get()
        if isinstance(event, BaseException):
            raise event
        if done + AT_ONCE < count:
            submit(done + AT_ONCE)
    seconds = time.perf_counter() - began
    engine.close()
    answers = ["".join(one) for one in pieces]
    golds = [gold for _, gold in spec["asked"]]
    (out / "answers.json").write_text(json.dumps(answers, ensure_ascii=False))
    scores = list(map(token_f1, answers, golds))
    return {
        "token_f1": sum(scores) / count,
        "scores": scores,
        "exact_match": sum(map(exact_match, answers, golds)) / count,
        "n": count,
        "asking_seconds": seconds,
    }


def main(out: Path) -> None:
    began = time.perf_counter()
    spec = json.loads((out / SPEC).read_text())
    from benchmarks.feedback_site import collect

    result = {"own": own, "plain": plain, "ask": ask, "feedback": collect}[spec["kind"]](spec, out)
    if spec["kind"] in ("own", "plain"):
        result["seconds"] = time.perf_counter() - began
    (out / "unfinished.json").write_text(json.dumps(result))
    (out / "unfinished.json").rename(out / RESULT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
