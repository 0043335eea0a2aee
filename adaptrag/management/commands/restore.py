"""`restore FILE`: a backup back in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import ContractCommand
from adaptrag.ops.archive import verify
from adaptrag.ops.restore import restore


class Command(ContractCommand):
    help = "Put a backup in place. Stop the site first; an occupied data folder needs --force, and is kept aside."
    requires_system_checks = []  # the site may be in pieces: that's when one restores

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--check", action="store_true", help="only read the archive and compare it with its manifest")
        parser.add_argument(
            "--force", action="store_true", help="replace an existing site, which is kept in a folder replaced-…"
        )

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["check"]:
            manifest, replaced, pending = verify(options["file"], self.progress), None, []
        else:
            done = restore(options["file"], force=options["force"], progress=self.progress)
            manifest, replaced, pending = done.manifest, done.replaced, done.pending
        return {
            "file": str(options["file"]),
            "restored": not options["check"],
            "made": manifest.created_at,
            "engine": manifest.engine,
            "files": len(manifest.files),
            "counts": manifest.counts,
            "replaced": str(replaced) if replaced else None,
            "pending_migrations": pending,
            "warnings": manifest.warnings,
        }

    def show(self, result: dict[str, Any]) -> None:
        rows = sum(result["counts"].values())
        state = "Restored" if result["restored"] else "Intact"
        self.stdout.write(f"{state}: backup of {result['made']}, {rows:,} rows of {result['engine']}, {result['files']} files.")
        if result["replaced"]:
            self.stdout.write(f"What was there before is in {result['replaced']}; delete it when you no longer need it.")
        if result["pending_migrations"]:
            self.stdout.write(f"Next: manage.py migrate ({len(result['pending_migrations'])} migrations are pending).")
