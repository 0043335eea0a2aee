"""Zip archives that claim to be documents: what they may unpack to."""

from __future__ import annotations

import io
import zipfile
import zlib

from agents.errors import DocumentRejected
from agents.ingestion.base import Limits

MOST_PARTS = 10_000
PIECE = 1 << 20


def check_expansion(name: str, data: bytes, limits: Limits) -> None:
    """Refuse a zip bomb: first by the sizes that the directory declares, then by expanding with a cap, piece by piece."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            declared = sum(part.file_size for part in parts)
            if len(parts) > MOST_PARTS or declared > limits.expanded_bytes:
                raise _bomb(name, f"{declared:,} bytes in {len(parts):,} parts", limits)
            if any(part.flag_bits & 1 for part in parts):
                raise DocumentRejected(f"{name} is encrypted. Save it without a password and upload that.", name=name)
            expanded = 0
            for part in parts:
                with archive.open(part) as handle:
                    while piece := handle.read(PIECE):
                        expanded += len(piece)
                        if expanded > limits.expanded_bytes:
                            raise _bomb(name, f"more than {expanded:,} bytes", limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise DocumentRejected(f"{name} is truncated or damaged ({error}). Copy or download it again.", name=name) from error


def _bomb(name: str, size: str, limits: Limits) -> DocumentRejected:
    return DocumentRejected(
        f"{name} expands to {size}; at most {limits.expanded_bytes:,} bytes are read (ADAPTRAG_MAX_EXPANDED_BYTES).", name=name
    )
