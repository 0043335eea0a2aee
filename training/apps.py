from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"
    verbose_name = "Training"

    def ready(self) -> None:
        from training import checks, tasks  # noqa: F401 importing registers the checks

        tasks.register_handlers()
