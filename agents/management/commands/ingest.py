"""`ingest PATH... [--collection NAME]`: files, folders and BEIR folders into a collection, indexed once at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from adaptrag.common.commands import FAILED, ContractCommand
from adaptrag.common.errors import AdaptRAGError, InvalidInput
from agents.errors import DocumentRejected
from agents.ingestion.beir import corpus_file
from agents.ingestion.detect import SUFFIXES
from agents.ingestion.parse import check_size, limits
from agents.models import Collection
from agents.services import collection_get_or_create, collection_index, corpus_add, derived_refresh, document_add

# How much of the whole the reading takes, as the bar shows it; the rest is embedding and writing the index.
READING = 0.2


@dataclass
class _Tally:
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: list[str] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)

    def count(self, created: int, changed: int, total: int) -> None:
        self.added += created
        self.replaced += changed - created
        self.unchanged += total - changed


class Command(ContractCommand):
    help = (
        "Add files, folders (with all that lies below) or BEIR folders (corpus.jsonl) to a collection, and index it. A file "
        "that can't be read is reported, the rest goes on, and the exit code is 1. The same file again changes nothing."
    )

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
        parser.add_argument("--collection", default=settings.ADAPTRAG_DEFAULT_COLLECTION, help="made if new (%(default)s)")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        for path in options["paths"]:
            if not path.exists():
                raise InvalidInput(f"{path} doesn't exist. Nothing was added.")
        collection = collection_get_or_create(options["collection"])
        tally = _Tally()
        items = [item for path in options["paths"] for item in self._items(path, _source(path), tally)]
        taken: dict[str, Path] = {}
        for number, (path, source) in enumerate(items):
            self.progress(READING * number / len(items), source)
            if taken.setdefault(source, path) == path:
                self._add(collection, path, source, tally)
            else:
                self._reject(
                    path, source, f"its source is {source!r}, as that of {taken[source]}: add them one at a time", tally
                )
        for note in tally.skipped:
            self.stderr.write(f"skipped {note}")
        if tally.rejected:
            self.exit_code = FAILED
        return self._index(collection, tally)

    def _items(self, path: Path, source: str, tally: _Tally) -> Iterator[tuple[Path, str]]:
        """(path, source) of every file, and of every BEIR folder as a whole. Hidden ones and links to folders are left out."""
        if path.is_file() or corpus_file(path):
            yield path, source
            return
        for below in sorted(path.iterdir()):
            if below.name.startswith("."):
                continue
            if below.is_dir() and not below.is_symlink():
                yield from self._items(below, f"{source}/{below.name}", tally)
            elif below.suffix.lower() in SUFFIXES and below.is_file():
                yield below, f"{source}/{below.name}"
            else:
                tally.skipped.append(f"{below}: not a file of a supported type")

    def _add(self, collection: Collection, path: Path, source: str, tally: _Tally) -> None:
        try:
            if path.is_dir():
                corpus = corpus_add(collection=collection, folder=path, progress=self.progress)
                tally.count(corpus.created, corpus.changed, corpus.documents)
            else:
                check_size(path.name, path.stat().st_size, limits())
                result = document_add(collection=collection, name=path.name, data=path.read_bytes(), source=source, index=False)
                tally.count(result.created, result.changed, 1)
        except (DocumentRejected, OSError) as error:
            reason = error.message if isinstance(error, AdaptRAGError) else str(error)
            self._reject(path, source, reason, tally)

    def _reject(self, path: Path, source: str, reason: str, tally: _Tally) -> None:
        tally.rejected.append({"source": source, "path": str(path), "error": reason})
        self.stderr.write(f"rejected {path}: {reason}")

    def _index(self, collection: Collection, tally: _Tally) -> dict[str, Any]:
        build = None
        if collection.documents.exists():
            build = collection_index(collection, lambda done, message: self.progress(READING + (1 - READING) * done, message))
            derived_refresh(collection, self.progress)
        return {
            "collection": collection.name,
            "added": tally.added,
            "replaced": tally.replaced,
            "unchanged": tally.unchanged,
            "rejected": tally.rejected,
            "skipped": tally.skipped,
            "documents": collection.documents.count(),
            "chunks": build.chunks if build else 0,
            "build": build.pk if build else None,
            "index_seconds": build.seconds if build else 0,
        }

    def show(self, result: dict[str, Any]) -> None:
        counts = {name: result[name] for name in ("added", "replaced", "unchanged")} | {"rejected": len(result["rejected"])}
        did = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        holds = f"{result['documents']:,} documents in {result['chunks']:,} passages"
        self.stdout.write(f"{result['collection']}: {did}. It holds {holds}.")


def _source(path: Path) -> str:
    """Below the working directory: the path from there, so that a file has one source alone and in its folder's run."""
    path = path.resolve()
    if path.is_relative_to(Path.cwd()) and path != Path.cwd():
        return path.relative_to(Path.cwd()).as_posix()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name
