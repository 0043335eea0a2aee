from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"
    verbose_name = "Agents and documents"

    def ready(self) -> None:
        from agents import checks, signals, tasks  # noqa: F401 checks and receivers register on import

        tasks.register_jobs()
