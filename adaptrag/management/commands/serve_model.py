"""`serve_model`: the process that holds the chat model's weights for all others of this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from adaptrag.common.commands import FAILED
from adaptrag.common.errors import AdaptRAGError
from agents.llm.process import ModelProcess, claim, publish
from agents.llm.weights import DEFAULT_MODEL


class Command(BaseCommand):
    help = "Serve the local chat model to the web server and the queue, over the OpenAI API, until it is stopped."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--model", default=DEFAULT_MODEL, help="smollm2 (default), a folder, or a hub name; others on demand"
        )
        parser.add_argument("--port", type=int, default=0, help="port to listen on (a free one; the others find it)")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument(
            "--address", default="", help="http://name:port under which others of this data folder reach it, if not by --host"
        )
        parser.add_argument(
            "--api-key-env", default="", metavar="NAME",
            help="environment variable with the key that other programs send; without it one is drawn at each start",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, _leave)
        try:
            self._serve(options)
        except AdaptRAGError as error:
            self.stderr.write(error.message)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            self.stderr.write("Stopped.")

    def _serve(self, options: dict[str, Any]) -> None:
        model, key = options["model"], _key(options["api_key_env"])
        with claim(key) as token, _listening(options["host"], options["port"]) as listener:
            address = options["address"] or _address(*listener.getsockname()[:2])
            process = ModelProcess(address=address, pid=os.getpid(), host=socket.gethostname(), token=token)
            publish(process)
            self.stderr.write(f"Loading {model} …")

            import uvicorn

            from agents.llm.engines import Engines
            from agents.llm.server import ModelServer

            engines = Engines()
            try:
                state = engines.get(model).describe()
                publish(ModelProcess(**vars(process) | {"state": "ready", "models": (model,)}))
                self.stderr.write(f"Ready: {model} at {address} ({state['form']}, loaded in {state['load_seconds']} s)")
                self.stderr.flush()
                config = uvicorn.Config(
                    ModelServer(engines, token), lifespan="off", access_log=False, log_level=logging.WARNING,
                    log_config=None, timeout_graceful_shutdown=3,
                )  # fmt: skip
                uvicorn.Server(config).run(sockets=[listener])
            finally:
                engines.close()


def _address(host: str, port: int) -> str:
    """Where this machine's processes reach a listener: one that listens on all addresses is on the loopback one too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 compared with, not bound to
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _key(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise CommandError(f"The environment variable {variable} is not set, so there is no key that others could send.")
    return os.environ[variable] if variable else ""


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=128, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise CommandError(
            f"Can't listen on {host} port {port}: {error}. Give another --port, or none for a free one."
        ) from error


def _leave(number: int, frame: Any) -> None:
    """Without this SIGTERM would end the process before the state file is gone."""
    sys.exit(0)
