"""Files as people upload them, good and bad, made here."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF with a page for each text; a line of the text is a line on the page. An empty text makes an image-like page."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for number, text in enumerate(pages):
        lines = [f"({line}) Tj T*".encode("cp1252") for line in text.split("\n")] if text else []
        stream = b"BT /F1 12 Tf 14 TL 50 750 Td " + b" ".join(lines) + b" ET"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>"
            % (5 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    if title:
        objects.append(f"<< /Title ({title}) >>".encode())
    body, offsets = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    info = b"/Info %d 0 R " % len(objects) if title else b""
    trailer = b"trailer\n<< /Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, info, len(body))
    return body + table + trailer


def encrypted_pdf(password: str) -> bytes:
    from pypdf import PdfWriter

    writer = PdfWriter(clone_from=io.BytesIO(pdf("A secret.")))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx(*blocks: tuple[str, str] | list[list[str]], title: str = "") -> bytes:
    """A Word document of (style, text) paragraphs and of tables (lists of rows)."""
    from docx import Document

    document = Document()
    document.core_properties.title = title
    for block in blocks:
        if isinstance(block, list):
            table = document.add_table(rows=len(block), cols=len(block[0]))
            for row, cells in enumerate(block):
                for column, text in enumerate(cells):
                    table.cell(row, column).text = text
        else:
            style, text = block
            document.add_paragraph(text, style=style)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zip_bomb(size: int) -> bytes:
    """A .docx whose text expands to `size` bytes of one letter."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w") as part:
            for _ in range(size // 65536 + 1):
                part.write(b"a" * 65536)
    return out.getvalue()


def lying_zip_bomb(size: int) -> bytes:
    """The same, with a directory that declares a small size for it."""
    data = bytearray(zip_bomb(size))
    entry = data.rindex(b"PK\x01\x02")  # central directory: document.xml is the last entry; its expanded size is at offset 24
    data[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    return bytes(data)


def xlsx(sheets: dict[str, list[list[object]]], hidden: tuple[str, ...] = ()) -> bytes:
    """A workbook of sheets by name, each a list of rows."""
    import xlsxwriter

    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True, "default_date_format": "yyyy-mm-dd"}) as workbook:
        for name, rows in sheets.items():
            sheet = workbook.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
            if name in hidden:
                sheet.hide()
    return out.getvalue()


def pptx(*slides: tuple[str, str], notes: str = "", picture: bytes = b"") -> bytes:
    """A presentation of (title, text) slides; notes and a picture go with the last."""
    from pptx import Presentation

    presentation = Presentation()
    for title, text in slides:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, text
    if notes:
        slide.notes_slide.notes_text_frame.text = notes
    if picture:
        slide.shapes.add_picture(io.BytesIO(picture), 0, 0)
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


def image(form: str = "PNG", *lines: str, size: tuple[int, int] = (700, 260)) -> bytes:
    """An image of black lines of text on white."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((30, 40 + 80 * number), line, fill="black", font=ImageFont.load_default(40))
    out = io.BytesIO()
    picture.save(out, form)
    return out.getvalue()


def image_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\x00" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


def pdf_with_image(picture: bytes) -> bytes:
    """A scan: a page that is nothing but an image."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(out, "PDF")
    return out.getvalue()


def docx_with_image(picture: bytes, text: str = "See the picture.") -> bytes:
    from docx import Document

    document = Document()
    document.add_heading("Harbour", 1)
    document.add_paragraph(text)
    document.add_picture(io.BytesIO(picture))
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()
