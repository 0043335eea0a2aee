from django.apps import AppConfig


class EvalsConfig(AppConfig):
    name = "evals"
    verbose_name = "Evaluation"

    def ready(self) -> None:
        from evals import checks, tasks  # noqa: F401 importing registers the checks

        tasks.register_handlers()
