"""Chat models of a few kilobytes: random weights of real architectures, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.llm.base import Message
from agents.llm.engine import Engine, Finished, Generation
from agents.llm.sampling import Sampling

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
_SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1,
    "num_key_value_heads": 1, "max_position_embeddings": 1024, "head_dim": 64,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _SIZES | {"num_attention_heads": 2, "hidden_size": 128},
    "qwen2": _SIZES | {"num_attention_heads": 2, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "gemma2": _SIZES | {"sliding_window": 256},
}


def make(folder: Path, architecture: str = "llama", template: str | None = TEMPLATE, seed: int = 0, **sizes: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, logging

    logging.disable_progress_bar()
    alphabet = ["</s>", "<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        **ARCHITECTURES[architecture] | sizes,
        vocab_size=len(alphabet),
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # far enough from zero that answers differ from question to question
        # Answers are of printable characters and never end by themselves: all other tokens are less likely than the likeliest.
        silent = [place for place, token in enumerate(alphabet) if not (len(token) == 1 and "!" <= token <= "~")]
        model.get_output_embeddings().weight[silent] = 0
    model.save_pretrained(folder)
    return folder


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


class Answer:
    """A generation and what it told, in order."""

    def __init__(self, engine: Engine, text: str, *, timeout: float = 60, **sampling: Any) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.pieces: list[str] = []
        self.generation: Generation = engine.submit(ask(text), Sampling(**sampling), self._events.put, timeout=timeout)

    def next(self) -> Any:
        event = self._events.get(timeout=60)
        if isinstance(event, str):
            self.pieces.append(event)
        return event

    def wait(self) -> Finished:
        """Raises the error that ended it."""
        while isinstance(event := self.next(), str):
            pass
        if isinstance(event, BaseException):
            raise event
        return event

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
