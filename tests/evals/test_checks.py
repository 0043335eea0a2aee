"""Wrong settings of the judge are named by `manage.py check`."""

import pytest

from evals.checks import check_judge


@pytest.mark.parametrize(
    ("backend", "model", "found"),
    [
        ("", "", []),
        ("local", "", []),
        ("openai_compatible", "m", []),
        ("magic", "m", ["evals.E001"]),
        ("", "m", ["evals.E002"]),
    ],
)
def test_the_judges_settings_are_checked(settings, backend, model, found):
    settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL = backend, model
    assert [one.id for one in check_judge()] == found
