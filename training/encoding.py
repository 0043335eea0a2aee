"""From chats to token sequences and batches of them. Knows no ORM."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.llm.base import Message
from agents.llm.prompts import ChatPrompts

IGNORED = -100  # labels that are no target


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Prompt and answer as tokens; the last token of the answer ends it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Encoder:
    """Chats as the model reads them when it serves: the same template, the same guard against control tokens."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self._prompts = ChatPrompts(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder).get_text_config()
        self.width: int = config.hidden_size  # n_embd of GPT-2 goes by this name too
        self.window: int = getattr(config, "max_position_embeddings", None) or 2048
        end = self._tokenizer.eos_token_id
        self._end: int = end if end is not None else min(self._prompts.ends)

    def encode(self, messages: Sequence[dict[str, str]]) -> Encoded:
        """The last message is the answer."""
        prompt = self._prompts.encode([Message(**message) for message in messages[:-1]])
        # Models without a template read "Assistant:", behind which a word begins with its space.
        answer = (" " if self._prompts.plain else "") + messages[-1]["content"].strip()
        tokens = self._tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
        return Encoded(prompt=tuple(prompt), answer=(*tokens, self._end))


def schedule(lengths: Sequence[int], *, steps: int, batch: int, micro: int, seed: int) -> Iterator[list[int]]:
    """Portions of indices for `steps` steps of `batch` examples, batch / micro portions a step.

    Examples are shuffled anew for each pass over the data, and only those of one step are grouped by length, so that what is
    computed together is alike and what is learned together is not.
    """
    generator = random.Random(seed)  # noqa: S311 a shuffle
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < batch:
            again = list(range(len(lengths)))
            generator.shuffle(again)
            waiting += again
        step, waiting = sorted(waiting[:batch], key=lengths.__getitem__), waiting[batch:]
        yield from portions(step, lengths, batch // micro)


def portions(indices: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """`count` portions of indices that are sorted by length; ValueError where there are fewer of them.

    The largest portion, padded to its longest example, is as small as can be: it decides how much memory a training takes.
    """
    if len(indices) < count:
        raise ValueError(f"{len(indices)} examples can't be cut into {count} portions.")

    def within(limit: int) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for index in indices:
            if found[-1] and (len(found[-1]) + 1) * lengths[index] > limit:
                found.append([])
            found[-1].append(index)
        return found

    longest = lengths[indices[-1]]
    limit = bisect_left(range(longest * len(indices)), True, lo=longest, key=lambda limit: len(within(limit)) <= count)
    found = within(limit)
    while len(found) < count:
        wide = max(range(len(found)), key=lambda at: (len(found[at]) > 1) * lengths[found[at][-1]] * len(found[at]))
        half = len(found[wide]) // 2
        found[wide : wide + 1] = [found[wide][:half], found[wide][half:]]
    return found


def collate(examples: Sequence[Encoded]) -> dict[str, Any]:
    """Tensors of shape (B, T), padded on the left: answers end together, so logits are needed of the last few places only."""
    import torch

    longest = max(map(len, examples))
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        ids[row, longest - len(example) :] = torch.tensor(example.prompt + example.answer)
        mask[row, longest - len(example) :] = 1
        labels[row, longest - len(example.answer) :] = torch.tensor(example.answer)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
        "labels": labels,
        "logits_to_keep": max(len(example.answer) for example in examples) + 1,
    }
