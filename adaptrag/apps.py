from django.apps import AppConfig


class AdaptRAGConfig(AppConfig):
    name = "adaptrag"
    verbose_name = "AdaptRAG"

    def ready(self) -> None:
        from adaptrag import checks  # noqa: F401 registers them
