from django.apps import AppConfig


class QueueAppConfig(AppConfig):
    """Registers handlers that misbehave on demand, in every process of a test's site."""

    name = "tests.faults.queue_app"
    label = "queue_app"

    def ready(self) -> None:
        from adaptrag.common.jobs import register
        from tests.faults.queue_app import handlers

        register("light", handlers.steps)
        register("light_short", handlers.steps, limit=1)
        register("heavy", handlers.steps, heavy=True)
        register("heavy_short", handlers.steps, heavy=True, limit=5)
        register("suicide", handlers.suicide, max_attempts=2)
        register("deaf", handlers.deaf, heavy=True)
        register("segfault", handlers.segfault, heavy=True)
        register("refuse", handlers.refuse, heavy=True)
        register("usurped", handlers.usurped)
