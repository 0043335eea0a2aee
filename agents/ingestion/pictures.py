"""Images, alone or inside documents: opened within limits, kept as JPEG of bounded size."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from agents.errors import DocumentRejected
from agents.ingestion.base import JPEG, Limits, ParsedDocument, Picture

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE = 2400  # a scanned page in 200 dots an inch, which the character recognition still reads
SHORTEST_SIDE, LEAST_PIXELS = 48, 8_000  # smaller ones inside documents are bullets, icons and rules
QUALITY = 88
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000")  # readers that may open a part of a document


class PictureRefused(ValueError):
    """Why an image can't be read, in words that go behind its name."""


class PictureFolder:
    """Takes the images of one document: each once, numbered, at most `limits.images`; counts what it leaves out."""

    def __init__(self, folder: Path | None, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._seen: set[bytes] = set()
        self.met: set[object] = set()  # what a parser knows images by before it unpacks them
        self.pictures: list[Picture] = []
        self.left_out = 0

    def add(self, data: bytes, *, start: int = 0, page: int | None = None, slide: int | None = None, caption: str = "") -> None:
        """Keep an image of a document. One that is too small to say something, or that stood before, is passed over."""
        digest = hashlib.sha256(data).digest()
        if self._folder is None or digest in self._seen:
            return
        if len(self.pictures) >= self._limits.images:
            self.left_out += 1
            return
        try:
            image = opened(data, self._limits)
        except PictureRefused:
            self.left_out += 1
            return
        if min(image.size) < SHORTEST_SIDE or image.width * image.height < LEAST_PIXELS:
            return
        self._seen.add(digest)
        self.keep(image, start=start, page=page, slide=slide, caption=caption)

    def keep(self, image: Image, **where: int | str | None) -> None:
        """Write the image down, whatever its size."""
        number = len(self.pictures) + 1
        image.save(self._folder / f"{number}.jpg", "JPEG", quality=QUALITY)
        picture = Picture(
            number=number, file=f"{number}.jpg", content_type=JPEG, width=image.width, height=image.height, **where
        )
        self.pictures.append(picture)

    def metadata(self) -> dict[str, int]:
        found = {"images": len(self.pictures)} if self.pictures else {}
        return found | ({"images_left_out": self.left_out} if self.left_out else {})


def opened(data: bytes, limits: Limits, formats: tuple[str, ...] = FORMATS) -> Image:
    """The image, upright, in RGB on white, no side longer than LONGEST_SIDE. Raises PictureRefused."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # the size in the header is compared with our own limit, before anything is unpacked
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=formats)
            if image.width * image.height > limits.pixels:
                raise PictureRefused(
                    f"has {image.width:,} x {image.height:,} pixels; at most {limits.pixels:,} are read (ADAPTRAG_MAX_PIXELS)"
                )
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                ground = Image.new("RGB", image.size, "white")
                ground.paste(image, mask=image.getchannel("A"))
                image = ground
            image = image.convert("RGB")
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    except PictureRefused:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, ArithmeticError, TypeError, KeyError) as error:
        # Pillow meets damage with many kinds of exception.
        raise PictureRefused(f"is truncated or damaged ({str(error)[:150]})") from error
    return image


def parse_image(name: str, data: bytes, limits: Limits, folder: Path | None) -> ParsedDocument:
    """A file that is an image: no text yet, one picture."""
    try:
        image = opened(data, limits, ("PNG", "JPEG", "WEBP"))
    except PictureRefused as error:
        raise DocumentRejected(f"{name} {error}. Save it again in an image program, smaller if need be.", name=name) from error
    pictures = PictureFolder(folder, limits)
    if folder is not None:
        pictures.keep(image)
    return ParsedDocument(text="", markdown=False, metadata={"width": image.width, "height": image.height},
                          pictures=tuple(pictures.pictures))  # fmt: skip
