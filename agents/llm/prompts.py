"""From messages to the tokens of a prompt, by the model's own chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.errors import ChatModelUnavailable
from agents.llm.base import Message

# For models that were never taught to chat, such as distilgpt2.
_PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class ChatPrompts:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._folder = folder
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # whatever a foreign folder makes transformers raise
            raise ChatModelUnavailable(f"The tokenizer in {folder} can't be loaded: {error}") from error
        self.plain = not self._tokenizer.chat_template
        if self.plain:
            self._tokenizer.chat_template = _PLAIN
        special = sorted({str(token) for token in self._tokenizer.all_special_tokens if token}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the prompt. A document or question that spells out a control token stays text: it can't end its turn."""
        turns = [{"role": message.role, "content": self._harmless(message.content)} for message in messages]
        try:
            text = self._render(turns)
        except Exception as error:  # templates refuse by raising: most often a system message, or two turns of one role
            folded = _folded(turns)
            if folded == turns:
                raise ChatModelUnavailable(f"The model's chat template can't write this conversation: {error}") from error
            text = self._render(folded)
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def tokens(self, text: str) -> list[int]:
        """Tokens of a plain text, of any length."""
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer, as the tokenizer and the model's configurations name them."""
        named: list[Any] = [self._tokenizer.eos_token_id]
        for file in (self._folder / "config.json", self._folder / "generation_config.json"):
            if file.is_file():
                value = json.loads(file.read_text()).get("eos_token_id")
                named += value if isinstance(value, list) else [value]
        return frozenset(token for token in named if token is not None)

    def _render(self, turns: list[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def _harmless(self, content: str) -> str:
        if self._special is None:
            return content
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", content)


def _folded(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """System messages as the beginning of a user's, and neighbours of one role as one."""
    folded: list[dict[str, str]] = []
    for turn in turns:
        role = "user" if turn["role"] == "system" else turn["role"]
        if folded and folded[-1]["role"] == role:
            folded[-1] = {"role": role, "content": f"{folded[-1]['content']}\n\n{turn['content']}"}
        else:
            folded.append({"role": role, "content": turn["content"]})
    return folded
