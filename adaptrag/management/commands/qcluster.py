"""django-q's command, with the cluster of adaptrag.common.cluster."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from adaptrag.common.cluster import JobCluster


class Command(BaseCommand):
    help = "Start the workers of a queue: of `default`, or of the one that --name or Q_CLUSTER_NAME says."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("-n", "--name", default="", help="the queue to serve, for instance: long")

    def handle(self, *args: Any, **options: Any) -> None:
        default = settings.Q_CLUSTER["name"]
        current = os.environ.get("Q_CLUSTER_NAME") or default
        name = options["name"] or current
        known = [default, *settings.Q_CLUSTER["ALT_CLUSTERS"]]
        if name not in known:
            raise CommandError(f"There is no queue {name!r}. Known: {', '.join(known)}.", returncode=2)
        if name != current:
            # django-q reads the variable once, when it is imported, which is before any argument is parsed.
            os.execve(sys.executable, sys.orig_argv, os.environ | {"Q_CLUSTER_NAME": name})  # noqa: S606 this program again
        JobCluster().start()
