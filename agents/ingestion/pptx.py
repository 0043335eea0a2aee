"""PowerPoint presentations to text in Markdown's form, slide by slide, with tables, notes and images."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.errors import DocumentRejected
from agents.ingestion.archives import check_expansion
from agents.ingestion.base import Limits, Mark, ParsedDocument
from agents.ingestion.pictures import PictureFolder
from agents.ingestion.text import clean, markdown_document

DEEPEST = 50  # groups in groups


def parse_pptx(name: str, data: bytes, limits: Limits, folder: Path | None) -> ParsedDocument:
    from lxml.etree import LxmlError
    from pptx import Presentation
    from pptx.exc import PythonPptxError

    check_expansion(name, data, limits)
    pictures, marks, text = PictureFolder(folder, limits), [], ""
    try:
        presentation = Presentation(io.BytesIO(data))
        title = clean(presentation.core_properties.title or "").strip()[:500]
        count = len(presentation.slides)
        if count > limits.pages:
            raise DocumentRejected(
                f"{name} has {count:,} slides; at most {limits.pages:,} are read (ADAPTRAG_MAX_PAGES). Split it.", name=name
            )
        for number, slide in enumerate(presentation.slides, 1):
            marks.append(Mark(start=len(text), kind="slide", level=number))
            for blob, caption in _images(slide.shapes):
                pictures.add(blob, start=len(text), slide=number, caption=caption)
            text += clean(_slide(slide)) + "\n"
    except (PythonPptxError, LxmlError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DocumentRejected(
            f"{name} is a damaged presentation "
            f"({type(error).__name__}: {str(error)[:200]}). Open it in PowerPoint and save it again.",
            name=name,
        ) from error
    document = markdown_document(text, title=title, metadata={"slides": count, **pictures.metadata()})
    # "PowerPoint Presentation" is what the program calls a file without a title.
    named = "" if document.title.lower() == "powerpoint presentation" else document.title
    return replace(document, title=named, marks=(*document.marks, *marks), pictures=tuple(pictures.pictures))


def _slide(slide: Any) -> str:
    blocks = []
    heading = _one_line(slide.shapes.title.text_frame.text) if slide.shapes.title is not None else ""
    if heading:
        blocks.append(f"# {heading}\n\n")
    for shape in _shapes(slide.shapes):
        if slide.shapes.title is not None and shape.shape_id == slide.shapes.title.shape_id:
            continue
        if shape.has_text_frame:
            lines = [_one_line(paragraph.text) for paragraph in shape.text_frame.paragraphs]
            blocks.append("\n".join(line for line in lines if line) + "\n\n" if any(lines) else "")
        elif getattr(shape, "has_table", False):
            rows = [" | ".join(_one_line(cell.text) for cell in row.cells) for row in shape.table.rows]
            blocks.append("\n".join(rows) + "\n\n")
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.strip()
        blocks.append(f"Notes: {notes}\n\n" if notes else "")
    return "".join(blocks)


def _shapes(shapes: Iterable[Any], depth: int = 0) -> Iterator[Any]:
    """Shapes in reading order as the file has it, those in groups too."""
    from pptx.enum.shapes import MSO_SHAPE_TYPE

    for shape in shapes:
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP and depth < DEEPEST:
            yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape


def _images(shapes: Iterable[Any]) -> Iterator[tuple[bytes, str]]:
    """(bytes, alternative text) of the pictures that are stored in the file."""
    from pptx.shapes.picture import Picture

    for shape in _shapes(shapes):
        if isinstance(shape, Picture) and shape._element.blip_rId:
            # A linked picture has no bytes here.
            relation = shape.part.rels.get(shape._element.blip_rId)
            if relation is not None and not relation.is_external:
                yield relation.target_part.blob, _one_line(shape._element._nvXxPr.cNvPr.get("descr") or "")[:500]


def _one_line(text: str) -> str:
    return " ".join(text.split())
