"""How the next tokens are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature 0 takes the likeliest token. repetition_penalty (Keskar et al., 2019) counts the answer's tokens only: an
    answer over passages has to repeat the passages. `max_tokens` None: as many as fit."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def generator(self) -> torch.Generator | None:
        if self.temperature <= 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def next_token(logits: Tensor, sampling: Sampling, answer: Sequence[int], generator: torch.Generator | None) -> int:
    """`logits`, shape (vocabulary,); `answer` holds the tokens so far."""
    if sampling.repetition_penalty != 1.0 and answer:
        used = torch.tensor(sorted(set(answer)), device=logits.device)
        values = logits[used]
        penalty = sampling.repetition_penalty
        logits = logits.index_copy(0, used, torch.where(values > 0, values / penalty, values * penalty))
    if generator is None:
        return int(logits.argmax())
    chances = torch.softmax(logits.cpu() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, places = chances.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        return int(places[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(chances, 1, generator=generator))
