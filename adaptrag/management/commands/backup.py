"""`backup FILE`: everything that the site has written, in one archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from adaptrag.ops.backup import backup


class Command(ContractCommand):
    help = "Write the database, uploads and indexes to one archive (.tar.gz) while the site runs, and verify it."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--models", action="store_true", help="include converted base models, which can be made again")
        parser.add_argument("--force", action="store_true", help="replace the file if it exists")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        manifest = backup(options["file"], models=options["models"], overwrite=options["force"], progress=self.progress)
        file = options["file"].expanduser().resolve()
        return {
            "file": str(file),
            "bytes": file.stat().st_size,
            "engine": manifest.engine,
            "files": len(manifest.files),
            "rows": sum(manifest.counts.values()),
            "counts": manifest.counts,
            "warnings": manifest.warnings,
        }

    def show(self, result: dict[str, Any]) -> None:
        rows = f"{result['rows']:,} rows of {result['engine']}"
        self.stdout.write(f"{result['file']}: {result['bytes']:,} bytes, {rows}, {result['files']} files.")
        for warning in result["warnings"]:
            self.stderr.write(f"warning: {warning}")
