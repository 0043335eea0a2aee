"""Files to text, and the limits on what reading one may cost."""

from __future__ import annotations

import time

import pytest

from agents.errors import DocumentRejected
from agents.ingestion.base import DOCX, HTML, MARKDOWN, PDF, Limits
from agents.ingestion.parse import parse
from tests.agents import sample_files

LIMITS = Limits(
    bytes=10_000_000, pages=50, expanded_bytes=20_000_000, characters=1_000_000, seconds=60, memory_bytes=600_000_000
)


def within(**limits) -> Limits:
    return Limits(**{**{name: getattr(LIMITS, name) for name in Limits.__dataclass_fields__}, **limits})


def test_pdf_pages_are_marked_and_wrapped_lines_joined():
    data = sample_files.pdf(
        "The first page speaks of\nrain and transmis-\nsion.", "The second of wind.", title="Weather report"
    )
    parsed = parse("weather.pdf", data, PDF, LIMITS)
    assert parsed.title == "Weather report"
    assert "The first page speaks of rain and transmission." in parsed.text
    pages = {mark.level: parsed.text[mark.start :] for mark in parsed.marks}
    assert pages[1].startswith("The first page")
    assert pages[2].startswith("The second of wind.")


def test_docx_keeps_headings_lists_and_tables():
    data = sample_files.docx(
        ("Title", "Handbook"), ("Heading 1", "Leave"), ("Normal", "Everyone has 30 days."), ("List Bullet", "Ask early."),
        [["Year", "Days"], ["2026", "30"]], ("Heading 2", "Illness"), ("Normal", "Call by nine."),
    )  # fmt: skip
    parsed = parse("handbook.docx", data, DOCX, LIMITS)
    assert parsed.title == "Handbook"
    assert [(mark.level, mark.text) for mark in parsed.marks] == [(1, "Handbook"), (1, "Leave"), (2, "Illness")]
    assert "- Ask early.\n" in parsed.text
    assert "Year | Days\n2026 | 30" in parsed.text


def test_html_keeps_structure_and_drops_what_isnt_content():
    page = """<html><head><title>Leave  policy</title><style>p {color: red}</style></head><body>
    <nav><a href="/">Home</a></nav><script>alert("x")</script>
    <h1>Leave</h1><p>Everyone has <b>30</b>
    days.</p><ul><li>Ask early.</li><li>Ask kindly.</li></ul>
    <table><tr><th>Year</th><th>Days</th></tr><tr><td>2026</td><td>30</td></tr></table>
    <h2>Illness</h2><pre>call
      by nine</pre><!-- hidden --></body></html>"""
    parsed = parse("leave.html", page.encode(), HTML, LIMITS)
    assert parsed.title == "Leave policy"
    assert [(mark.level, mark.text) for mark in parsed.marks] == [(1, "Leave"), (2, "Illness")]
    assert "Everyone has 30 days." in parsed.text
    assert "- Ask early.\n- Ask kindly." in parsed.text
    assert "Year | Days\n2026 | 30" in parsed.text
    assert "call\n      by nine" in parsed.text
    assert not {"alert", "Home", "hidden", "color"} & set(parsed.text.replace('"', " ").split())


def test_html_in_another_charset_is_read_by_its_own_declaration():
    page = '<html><head><meta charset="iso-8859-5"></head><body><p>Привет</p></body></html>'.encode("iso-8859-5")
    assert parse("hello.html", page, HTML, LIMITS).text == "Привет"


def test_html_may_nest_deeper_than_python():
    assert parse("deep.html", b"<div>" * 5000 + b"bottom", HTML, LIMITS).text == "bottom"


def test_markdown_headings_outside_code_and_front_matter():
    text = "---\ntitle: Guide\n---\n\nIntro\n=====\n\n```sh\n# no heading\n```\n\n## Set *up* [here](x) ##\n\n- item\n---\n"
    parsed = parse("guide.md", text.encode(), MARKDOWN, LIMITS)
    assert parsed.title == "Guide"
    assert [(mark.level, mark.text) for mark in parsed.marks] == [(1, "Intro"), (2, "Set up here")]
    assert text[parsed.marks[1].start :].startswith("## Set")


def test_a_file_without_a_title_is_called_by_its_name():
    assert parse("docs/leave policy.md", b"Text.", MARKDOWN, LIMITS).title == "leave policy"


@pytest.mark.parametrize(
    ("name", "data", "kind", "limits", "words"),
    [
        ("cut.pdf", sample_files.pdf("Text.", "More.")[:-200], PDF, {}, "truncated"),
        ("cut.pdf", sample_files.pdf("Text.")[:300] + b"\n%%EOF", PDF, {}, "damaged PDF"),
        ("secret.pdf", sample_files.encrypted_pdf("password"), PDF, {}, "encrypted"),
        ("scan.pdf", sample_files.pdf("", ""), PDF, {}, "no text in them"),
        ("long.pdf", sample_files.pdf(*["Text."] * 5), PDF, {"pages": 4}, "5 pages; at most 4"),
        ("long.pdf", sample_files.pdf("Text " * 100), PDF, {"characters": 100}, "more than 100 characters"),
        ("bomb.docx", sample_files.zip_bomb(50_000_000), DOCX, {}, "expands to"),
        ("bomb.docx", sample_files.lying_zip_bomb(50_000_000), DOCX, {}, "truncated or damaged"),
        ("cut.docx", sample_files.docx(("Normal", "Text."))[:-100], DOCX, {}, "truncated or damaged"),
        ("empty.docx", sample_files.docx(), DOCX, {}, "no text in it"),
        ("no-text.html", b"<html><body><script>x</script></body></html>", HTML, {}, "no text in it"),
        ("big.md", b"x" * 2000, MARKDOWN, {"bytes": 1000}, "2,000 bytes; at most 1,000"),
        ("long.md", b"x " * 2000, MARKDOWN, {"characters": 1000}, "4,000 characters; at most 1,000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_file_is_rejected_with_its_reason(name, data, kind, limits, words):
    with pytest.raises(DocumentRejected) as caught:
        parse(name, data, kind, within(**limits))
    assert words in caught.value.message
    assert caught.value.message.startswith(name)


def test_a_pdf_that_only_forbids_printing_is_read():
    assert "A secret." in parse("open.pdf", sample_files.encrypted_pdf(""), PDF, LIMITS).text


def test_a_parser_that_takes_too_much_memory_is_stopped():
    page = b"<p>" + b"<b>x</b>" * 400_000
    with pytest.raises(DocumentRejected, match="needs more than 150,000,000 bytes of memory"):
        parse("huge.html", page, HTML, within(memory_bytes=150_000_000))


def test_the_process_that_opens_foreign_files_has_no_secrets(monkeypatch):
    from agents.ingestion import parse as module

    given, run = {}, module.subprocess.run
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr(module.subprocess, "run", lambda *words, **options: given.update(options) or run(*words, **options))
    assert parse("page.html", b"<p>Text.</p>", HTML, LIMITS).text == "Text."
    assert "sk-secret" not in given["env"].values()


def test_a_parser_that_takes_too_long_is_stopped():
    page = b"<p>" + b"<b>x</b>" * 400_000
    begun = time.monotonic()
    with pytest.raises(DocumentRejected, match="more than 1 s"):
        parse("huge.html", page, HTML, within(seconds=1))
    assert time.monotonic() - begun < 20
