from collections.abc import Iterable

from django.apps import AppConfig


class AdaptRAGConfig(AppConfig):
    name = "adaptrag"
    verbose_name = "AdaptRAG"

    def ready(self) -> None:
        from adaptrag import checks  # noqa: F401 registers them
        from training.services.datasets import questions_reserve

        questions_reserve(_eval_questions)


def _eval_questions() -> Iterable[str]:
    from evals.models import EvalQuestion

    return EvalQuestion.objects.values_list("question", flat=True)
