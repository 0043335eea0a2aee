"""Which files are taken, and what is said of those that aren't."""

from __future__ import annotations

import pytest

from agents.errors import DocumentRejected
from agents.ingestion.base import CSV, DOCX, HTML, JPEG, JSONL, MARKDOWN, PDF, PPTX, TEXT, TSV, WEBP, XLSX
from agents.ingestion.detect import detect
from agents.ingestion.text import decode
from tests.agents import sample_files

PAGE = b"<!DOCTYPE html><html><body><p>Hello</p></body></html>"


@pytest.mark.parametrize(
    ("name", "data", "content_type", "expected"),
    [
        ("notes.md", b"# Notes\n\nText.", "", MARKDOWN),
        ("notes.txt", b"Text.", "", TEXT),
        ("NOTES.TXT", "Überraschung".encode(), "", TEXT),
        ("page.html", PAGE, "", HTML),
        ("part.htm", b"<p>A part of a page</p>", "", HTML),
        ("paper.pdf", sample_files.pdf("Text."), "", PDF),
        ("paper.pdf", b"\n\n" + sample_files.pdf("Text."), "", PDF),
        ("letter.docx", sample_files.docx(("Normal", "Text.")), "", DOCX),
        ("README", b"Text.", "", TEXT),
        ("README", b"Text.", "text/markdown; charset=utf-8", MARKDOWN),
        ("README", PAGE, "", HTML),
        ("table.csv", b"a,b\n1,2\n", "", CSV),
        ("table.tsv", b"a\tb\n1\t2\n", "", TSV),
        ("table", b"name,born\nAnn,1990\nBob,1985\n", "", CSV),
        ("table.txt", b"name,born\nAnn,1990\nBob,1985\n", "", TEXT),
        ("records", b'{"a": 1}\n{"a": 2}\n', "", JSONL),
        ("records.ndjson", b'{"a": 1}\n', "", JSONL),
        ("book.xlsx", sample_files.xlsx({"A": [["x"], [1]]}), "", XLSX),
        ("deck.pptx", sample_files.pptx(("Title", "Text.")), "", PPTX),
        ("photo.jpeg", sample_files.image("JPEG"), "", JPEG),
        ("photo", sample_files.image("WEBP"), "", WEBP),
        ("paper", sample_files.pdf("Text."), "text/plain", PDF),
        # Markdown may hold HTML, and a text may speak of tags.
        ("readme.md", b'<div align="center">\n\n# Title\n\n</div>', "", MARKDOWN),
        ("about.txt", b"The <p> tag starts a paragraph.", "", TEXT),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_type_is_told_by_content(name, data, content_type, expected):
    assert detect(name, data, content_type) == expected


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.md", b"", "is empty"),
        ("blank.txt", b" \n\t\n", "is empty"),
        ("paper.txt", sample_files.pdf("Text."), "holds a PDF. Check that it is the right file, and rename it to .pdf"),
        ("paper.md", sample_files.docx(("Normal", "Text.")), "holds a Word document"),
        ("paper.pdf", PAGE, "damaged or another type"),
        ("paper.pdf", sample_files.docx(("Normal", "Text.")), "holds a Word document"),
        ("letter.docx", b"Just text.", "damaged or another type"),
        ("letter.docx", sample_files.pdf("Text."), "holds a PDF"),
        ("letter.docx", sample_files.docx(("Normal", "Text."))[:500], "truncated or damaged"),
        ("page.txt", PAGE, "holds HTML"),
        ("page.html", b"Nothing but text.", "holds plain text"),
        ("sheet.docx", sample_files.zip_bomb(10).replace(b"word/document.xml", b"ppt/presentat.xml"), "zip archive without"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, "holds a PNG image. Check that it is the right file, and rename"),
        ("picture.gif", b"GIF89a" + b"\x00" * 50, "type .gif aren't read"),
        ("photo.png", b"\xff\xd8\xff" + b"\x00" * 50, "holds a JPEG image"),
        ("photo.webp", b"Just text.", "damaged or another type"),
        ("deck.pptx", sample_files.docx(("Normal", "Text.")), "holds a Word document"),
        ("deck.pptx", sample_files.pptx(("Title", "Text."))[:500], "PowerPoint presentation that is truncated"),
        ("book.xlsx", sample_files.pptx(("Title", "Text.")), "holds a PowerPoint presentation (.pptx). Check"),
        ("book.csv", sample_files.xlsx({"A": [["x"], [1]]}), "holds an Excel workbook (.xlsx). Check"),
        ("table.xlsx", b"a,b\n1,2\n", "damaged or another type"),
        ("table.tsv", PAGE, "holds HTML"),
        ("old.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600, "without a password"),
        ("old.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600, "without a password"),
        ("data.txt", bytes(range(256)) * 20, "binary data"),
        ("data.txt", b"Text with\x00a NUL", "NUL bytes"),
        ("data", b"\x7fELF" + b"\x01" * 100, "a program"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_named_with_its_remedy(name, data, words):
    with pytest.raises(DocumentRejected) as caught:
        detect(name, data)
    assert words in caught.value.message
    assert name in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_is_read_in_the_encodings_that_can_be_told(encoding):
    text = "Zoë paid 5 for the naïve café’s crème brûlée, said the waiter to the old man by the door.\n"
    assert decode("menu.txt", text.encode(encoding))[0] == text


def test_text_in_an_encoding_that_cant_be_told_is_rejected():
    with pytest.raises(DocumentRejected, match="Save it as UTF-8"):
        decode("cyrillic.txt", "Быстрая коричневая лиса".encode("cp1251"))
    with pytest.raises(DocumentRejected, match="Save it as UTF-8"):
        decode("japanese.txt", "素早い茶色の狐はのろまな犬を飛び越える".encode("shift_jis"))


def test_truncated_utf16_is_rejected():
    with pytest.raises(DocumentRejected, match="truncated or damaged"):
        decode("notes.txt", "Some notes of mine".encode("utf-16")[:-1])


def test_line_ends_and_stray_controls_are_cleaned():
    assert decode("notes.txt", b"one\r\ntwo\rthree\x0bfour\x0cfive")[0] == "one\ntwo\nthreefour\nfive"
