"""The form of a backup: a gzipped tar whose first member is a manifest that lists every other one with its SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from adaptrag.ops.errors import ArchiveDamaged
from adaptrag.ops.progress import Progress, silent

FORMAT = 1
MANIFEST = "manifest.json"
BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`counts`: rows by table; `files`: every member but the manifest itself; `database`: the member that holds the rows."""

    format: int = FORMAT
    created_at: str
    engine: str
    database: str
    counts: dict[str, int]
    migrations: list[str]
    models: bool
    files: dict[str, FileEntry]
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files.values())

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise ArchiveDamaged(f"The archive has format {values['format']}; this version reads format {FORMAT}.")
            values["files"] = {name: FileEntry(**entry) for name, entry in values["files"].items()}
            manifest = cls(**values)
            if manifest.database not in manifest.files:
                raise ArchiveDamaged(f"The archive's {MANIFEST} names no database. Use another backup.")
            return manifest
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArchiveDamaged(f"The archive's {MANIFEST} can't be read ({error}). Use another backup.") from error


Members = Iterator[tuple[tarfile.TarInfo, IO[bytes]]]


def file_entry(path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
            size += len(block)
    return FileEntry(sha256=digest.hexdigest(), size=size)


def write(folder: Path, manifest: Manifest, target: Path, progress: Progress = silent) -> None:
    """Write the manifest and the files of `folder` that it lists to `target`, readable by its owner only, and on the disk."""
    descriptor = os.open(target, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)  # the archive holds password digests
    with os.fdopen(descriptor, "wb") as raw:
        # Level 3: floats and model weights hardly shrink further, and take four times as long at the default of 9.
        with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as tar:
            data = json.dumps(asdict(manifest), indent=1).encode()
            member = tarfile.TarInfo(MANIFEST)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            done = 0
            for name, entry in manifest.files.items():
                member = tar.gettarinfo(folder / name, arcname=name)
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.type, member.linkname = tarfile.REGTYPE, ""  # two links to one file are two files here
                member.size = entry.size
                with (folder / name).open("rb") as handle:
                    tar.addfile(member, handle)
                done += entry.size
                progress(done / max(1, manifest.size))
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def reading(path: Path) -> Iterator[tuple[Manifest, Members]]:
    """(manifest, members in order); damage found anywhere while the members are read raises ArchiveDamaged."""
    if not path.is_file():
        raise ArchiveDamaged(f"There is no file {path}.")
    try:
        with tarfile.open(path, "r|gz") as tar:
            first = tar.next()
            handle = tar.extractfile(first) if first is not None and first.name == MANIFEST and first.isreg() else None
            if handle is None:
                raise ArchiveDamaged(f"{path} is no backup of AdaptRAG: it does not begin with a {MANIFEST}.")
            manifest = Manifest.parse(handle.read())
            yield manifest, _members(tar, manifest, path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ArchiveDamaged(f"{path} is damaged, or no backup of AdaptRAG ({error}). Use another backup.") from error


def verify(path: Path, progress: Progress = silent) -> Manifest:
    """Read a whole archive and compare each member with the manifest; raises ArchiveDamaged."""
    with reading(path) as (manifest, members):
        done = 0
        for member, handle in members:
            digest = hashlib.sha256()
            while block := handle.read(BLOCK):
                digest.update(block)
                done += len(block)
                progress(done / max(1, manifest.size))
            if digest.hexdigest() != manifest.files[member.name].sha256:
                raise ArchiveDamaged(f"{member.name} in {path} is not what the manifest says. Use another backup.")
    return manifest


def _members(tar: tarfile.TarFile, manifest: Manifest, path: Path) -> Members:
    missing = set(manifest.files)
    while (member := tar.next()) is not None:
        if member.name not in missing or not member.isreg() or member.size != manifest.files[member.name].size:
            raise ArchiveDamaged(f"{path} holds {member.name!r}, which its manifest does not list in this form.")
        missing.discard(member.name)
        yield member, tar.extractfile(member)
    if missing:
        raise ArchiveDamaged(f"{path} lacks {len(missing)} of its files, {min(missing)} among them. Use another backup.")
