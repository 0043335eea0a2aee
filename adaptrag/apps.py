from django.apps import AppConfig


class AdaptRAGConfig(AppConfig):
    name = "adaptrag"
    verbose_name = "AdaptRAG"
