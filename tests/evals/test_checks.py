"""Wrong settings of the judge are named by `manage.py check`."""

import pytest

from evals.checks import check_judge
from evals.judging import judge_named


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


@pytest.mark.parametrize(
    ("options", "found"), [({}, []), ({"timeout": 20}, []), ({"colour": 1}, ["evals.E003"]), ({"timeout": "x"}, ["evals.E003"])]
)
def test_the_judges_options_are_checked(settings, options, found):
    settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL = "openai_compatible", "m"
    settings.ADAPTRAG_JUDGE_OPTIONS = options
    assert [one.id for one in check_judge()] == found


def test_options_of_the_settings_belong_to_the_settings_model(settings):
    settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL = "scripted", "m"
    settings.ADAPTRAG_JUDGE_OPTIONS = {"timeout": 20, "price_prompt_per_million": 1}
    assert judge_named().options == settings.ADAPTRAG_JUDGE_OPTIONS
    assert judge_named(options={"timeout": 5}).options == {"timeout": 5, "price_prompt_per_million": 1}
    assert judge_named("scripted", "other").options == {}
