from django.apps import AppConfig


class CommonConfig(AppConfig):
    name = "adaptrag.common"
    label = "common"
    verbose_name = "Jobs"
