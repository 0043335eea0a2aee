"""From tokens to text while they come: no half characters, and nothing of a stop string is ever let out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "�"
_LONGEST_CHARACTER = 8  # tokens; what is unfinished behind so many was never a character


class TextStream:
    """Collects tokens; `feed` returns the text that is certain by now. `text` holds all that was returned."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = [string for string in stop if string]
        self._ids: list[int] = []
        self._from = self._known = 0  # ids[from:known] are decoded again, for the spaces between tokens
        self._held = ""
        self.text = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        self._ids.append(token)
        before = self._decode(self._ids[self._from : self._known])
        text = self._decode(self._ids[self._from :])
        if text.endswith(_UNFINISHED) and len(self._ids) - self._known < _LONGEST_CHARACTER:
            return ""
        self._from, self._known = self._known, len(self._ids)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """What was held back, once no more will come."""
        rest = self._decode(self._ids[self._from :])[len(self._decode(self._ids[self._from : self._known])) :]
        text = self._release(rest) + ("" if self.stopped else self._held)
        self.text += "" if self.stopped else self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        text = self._held + new
        ends = [position for string in self._stop if (position := text.find(string)) >= 0]
        if ends:
            self.stopped = True
            text, self._held = text[: min(ends)], ""
        else:
            held = max((_overlap(text, string) for string in self._stop), default=0)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        self.text += text
        return text


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of text that string begins with."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)
