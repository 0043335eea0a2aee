from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "adaptrag.console"
    label = "console"
    verbose_name = "Console"
