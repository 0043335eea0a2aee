"""`doctor`: what is installed, reachable and misconfigured."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from adaptrag.common.commands import DONE, FAILED, ContractCommand
from adaptrag.ops.doctor import FAIL, OK, WARN, examine


class Command(ContractCommand):
    help = "Look at everything that a site needs and say how to mend what is wrong. Exit code 1 if something does not work."
    requires_system_checks = []  # they are among the findings

    def arguments(self, parser: CommandParser) -> None:
        port = os.environ.get("PORT") or "8000"
        parser.add_argument("--port", type=int, default=port, help="where the web server should listen, or PORT (8000)")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        findings = [asdict(finding) for finding in examine(options["port"])]
        states = [finding["state"] for finding in findings]
        self.exit_code = FAILED if FAIL in states else DONE
        return {"ok": FAIL not in states, "failed": states.count(FAIL), "warned": states.count(WARN), "findings": findings}

    def show(self, result: dict[str, Any]) -> None:
        style = {OK: self.style.SUCCESS, WARN: self.style.WARNING, FAIL: self.style.ERROR}
        for finding in result["findings"]:
            self.stdout.write(
                f"{style[finding['state']](finding['state'].ljust(5))} {finding['topic']:<13} {finding['message']}"
            )
            if finding["fix"] and finding["state"] != OK:
                self.stdout.write(f"{'':19} -> {finding['fix']}")
        self.stdout.write(f"\n{result['failed']} do not work, {result['warned']} to look at.")
