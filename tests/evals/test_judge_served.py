"""The shipped chat model as a judge: served by a process of its own, asked over HTTP, read as it comes."""

import pytest

from evals.models import EvalRun, JudgeCall
from evals.services import RunRequest, evalrun_create, evalrun_execute
from tests.agents.test_llm_local import serve_model
from tests.evals.test_judges_http import evalset_of_the_sea
from tests.ops.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


def test_a_small_models_verdict_is_a_score_or_counted_as_missing(tmp_path, monkeypatch):
    with serve_model(Site(tmp_path), "smollm2") as served:
        monkeypatch.setenv("JUDGE_API_KEY", served.state["token"])
        options = {"base_url": f"{served.state['address']}/v1", "api_key_env": "JUDGE_API_KEY", "max_tokens": 60, "timeout": 60}
        request = RunRequest(
            eval_set=evalset_of_the_sea(1),
            agents=("one",),
            judge="llm",
            judge_backend="openai_compatible",
            judge_model="smollm2",
            judge_options=options,
        )
        run = evalrun_create(request)
        evalrun_execute(run.pk)
        run.refresh_from_db()
        assert run.state == EvalRun.State.DONE
        (judged,) = run.results.all()
        if judged.score is None:
            assert judged.error["code"] == "judge_failed"
            assert "no usable verdict in 3 replies" in judged.error["message"]
        else:
            assert 0 <= judged.score <= 1
            assert judged.judgement["explanation"]
        scored = int(judged.score is not None)
        assert [row["unscored"] for row in run.summary["agents"]] == [1 - scored]
        assert JudgeCall.objects.count() == scored
        assert "not calibrated" in run.summary["judge_calibration"]
