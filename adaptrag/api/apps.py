from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "adaptrag.api"
    label = "api"
    verbose_name = "API keys"
