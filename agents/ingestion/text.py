"""Plain text and Markdown: bytes to characters, and headings to marks."""

from __future__ import annotations

import codecs
import re

from agents.errors import DocumentRejected
from agents.ingestion.base import Mark, ParsedDocument

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
SURROGATES = re.compile(r"[\ud800-\udfff]")
MOST_CONTROLS = 0.01
# Western European text has few letters above ASCII; in other single-byte alphabets most letters are, and which one it is
# can't be told from the bytes.
MOST_HIGH_BYTES = 0.3
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
# Every pattern that meets a foreign text here takes time in proportion to it (tests/agents/test_hostile_texts.py).
ATX = re.compile(r" {0,3}(#{1,6})[ \t]+")
SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
FRONT_TITLE = re.compile(r"^title:[ \t]*(\S.*)$", re.M)
# An underscore inside a word (naive_rag) is no emphasis.
INLINE = re.compile(r"!?\[([^\[\]]*)\]\([^()]*(?:\([^()]*\)[^()]*)*\)|[*`]{1,3}|(?<![^\W_])_{1,3}|_{1,3}(?![^\W_])")
LONGEST_HEADING = 1000  # characters of a heading's line that are looked at; the mark keeps 300


def decode(name: str, data: bytes) -> tuple[str, str]:
    """(text, encoding). UTF-8, UTF-16, UTF-32, or Windows-1252 where the bytes look like Western European text.

    Raises DocumentRejected for binary data and encodings that can't be told.
    """
    text, encoding = _decoded(name, data)
    if "\x00" in text:
        raise _binary(name, "NUL bytes")
    stray = len(CONTROLS.findall(text))
    if stray > max(4, MOST_CONTROLS * len(text)):
        raise _binary(name, f"{stray:,} control characters")
    return clean(text), encoding


def _binary(name: str, sign: str) -> DocumentRejected:
    return DocumentRejected(f"{name} holds binary data ({sign}), not text. Check that it is the right file.", name=name)


def _decoded(name: str, data: bytes) -> tuple[str, str]:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return _strict(name, data, encoding), encoding.removesuffix("-sig")
    if encoding := _utf16_without_mark(data):
        return _strict(name, data, encoding), encoding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        broken = error
    if b"\x00" in data:
        raise _binary(name, "NUL bytes")
    sample = data[:1_000_000]
    high = sum(byte >= 0x80 for byte in sample)
    controls = sum(byte < 0x20 and byte not in b"\t\n\r\f" for byte in sample)
    if high <= MOST_HIGH_BYTES * len(sample) and not controls:
        try:
            return data.decode("cp1252"), "windows-1252"
        except UnicodeDecodeError:
            pass  # told below, with the position in UTF-8 that an editor can find
    raise DocumentRejected(
        f"{name} is neither UTF-8 nor another encoding that can be recognised (byte 0x{data[broken.start]:02x} at "
        f"{broken.start:,}). Save it as UTF-8.",
        name=name,
    )


def _strict(name: str, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentRejected(
            f"{name} starts as {encoding.removesuffix('-sig').upper()} but breaks at byte {error.start:,}: it is truncated or "
            "damaged. Save it again as UTF-8.",
            name=name,
        ) from error


def _utf16_without_mark(data: bytes) -> str:
    """UTF-16 of mostly Latin text has a NUL in every second byte."""
    sample = data[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if half >= 8 and odd > 0.7 * half and even < 0.05 * half:
        return "utf-16-le"
    if half >= 8 and even > 0.7 * half and odd < 0.05 * half:
        return "utf-16-be"
    return ""


def clean(text: str) -> str:
    """Without what a database or a page can't hold: line ends as \\n, no control characters, no lone surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", CONTROLS.sub("", text))


def parse_text(name: str, data: bytes) -> ParsedDocument:
    text, encoding = decode(name, data)
    return ParsedDocument(text=text, markdown=False, metadata={"encoding": encoding})


def parse_markdown(name: str, data: bytes) -> ParsedDocument:
    text, encoding = decode(name, data)
    return markdown_document(text, metadata={"encoding": encoding})


def markdown_document(text: str, *, title: str = "", metadata: dict | None = None) -> ParsedDocument:
    """Markdown with its headings marked. The title: the given one, the front matter's, or a first heading of level 1."""
    marks = tuple(markdown_headings(text))
    first = marks[0].text if marks and marks[0].level == 1 else ""
    front = FRONT_MATTER.match(text)
    named = FRONT_TITLE.search(front[1]) if front else None
    title = title or (_unquoted(named[1].strip()) if named else first)
    return ParsedDocument(text=text, markdown=True, title=title, marks=marks, metadata=metadata or {})


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 2 and value[0] == value[-1] and value[0] in "\"'" else value


def markdown_headings(text: str) -> list[Mark]:
    """ATX and setext headings outside front matter and fenced code (CommonMark 0.31, sections 4.2 and 4.3)."""
    marks: list[Mark] = []
    front = FRONT_MATTER.match(text)
    fence, position, previous = "", front.end() if front else 0, ("", 0)
    for line in text[position:].split("\n"):
        opening = FENCE.match(line)
        if fence:
            if opening and opening[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
        elif opening:
            fence = opening[1]
        elif heading := ATX.match(line):
            _add(marks, position, len(heading[1]), _without_closing(line[heading.end() :]))
        elif (
            previous[0].strip()
            and (under := SETEXT.match(line))
            and not previous[0].lstrip().startswith(("#", "-", "*", ">", "|"))
        ):
            _add(marks, previous[1], 1 if under[1][0] == "=" else 2, previous[0])
        previous = ("" if fence else line, position)
        position += len(line) + 1
    return marks


def _without_closing(heading: str) -> str:
    """The words of an ATX heading without the row of # that may end it."""
    heading = heading.rstrip(" \t")
    words = heading.rstrip("#")
    return words if not words or words[-1] in " \t" else heading


def _add(marks: list[Mark], start: int, level: int, text: str) -> None:
    if words := INLINE.sub(lambda match: match[1] or "", text[:LONGEST_HEADING]).strip():
        marks.append(Mark(start=start, kind="heading", level=level, text=words[:300]))
