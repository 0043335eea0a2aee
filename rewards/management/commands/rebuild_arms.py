"""`rebuild_arms`: arms from the log."""

from __future__ import annotations

from typing import Any

from adaptrag.common.commands import ContractCommand
from rewards.services import arms_rebuild


class Command(ContractCommand):
    help = "Count every arm again from the log's interactions and rewards. Feedback that arrives meanwhile waits."

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"pulls": arms_rebuild(self.progress)}

    def show(self, result: dict[str, Any]) -> None:
        self.stdout.write(f"Arms rebuilt from {result['pulls']:,} rated interactions.")
