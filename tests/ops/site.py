"""A site in a folder of its own, driven from outside by its commands, as an operator does."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OF_A_SITE = ("ADAPTRAG_", "DATABASE_URL", "OPENAI_", "PORT")
SHARED = "ADAPTRAG_MODELS_DIR"  # converted weights are the same for every test


class Site:
    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_SITE) or name == SHARED}
        self.environment = kept | {
            "ADAPTRAG_DATA_DIR": str(folder),
            "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
            **environment,
        }

    def manage(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "manage.py"), *map(str, words)]
        return subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )

    def must(self, *words: str, timeout: float = 120) -> dict[str, Any]:
        """Run a command with --json that has to succeed; its object."""
        done = self.manage(*words, "--json", timeout=timeout)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, script: str) -> subprocess.Popen[str]:
        """A Python process with Django set up, running `script`."""
        code = f"import django; django.setup()\n{script}"
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", code], env=self.environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True
        )

    def copy(self, folder: Path) -> Site:
        shutil.copytree(self.folder, folder)
        other = Site(folder)
        other.environment = self.environment | {"ADAPTRAG_DATA_DIR": str(folder)}
        return other

    def execute(self, sql: str) -> None:
        with closing(sqlite3.connect(self.folder / "db.sqlite3")) as database, database:
            database.execute(sql)

    def rows(self, sql: str) -> list[tuple]:
        with closing(sqlite3.connect(self.folder / "db.sqlite3")) as database:
            return database.execute(sql).fetchall()
