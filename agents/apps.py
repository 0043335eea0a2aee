from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"
    verbose_name = "Agents and documents"

    def ready(self) -> None:
        from agents import signals, tasks  # noqa: F401 the receivers connect on import

        tasks.register_jobs()
