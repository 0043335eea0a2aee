"""What an eval run found of a quantized build, carried to its report."""

import json

import pytest
from django.core.management import call_command
from django.urls import reverse

from adaptrag.builds import quantization_quality_from
from adaptrag.common.errors import InvalidInput
from agents.models import ModelArtifact
from agents.services import agent_register
from evals.services import RunRequest, evalrun_create, evalrun_execute
from training.models import QuantizationReport


def _agent(name, artifact, answer):
    agent_register(
        name=name, strategy="naive_rag", chat_backend="scripted", parameters={"retriever": "bm25"}, artifact=artifact,
        chat_options={"answer": answer},
    )  # fmt: skip


@pytest.fixture
def report(harbour):
    adapter, build = (
        ModelArtifact.objects.create(name=kind, kind=kind, base_model="smollm2", path=kind, sha256="0")
        for kind in ("adapter", "quantized")
    )
    _agent("tuned", adapter, "Marta Olsen")
    _agent("quick", build, "at six")
    return QuantizationReport.objects.create(base_model="smollm2", adapter=adapter, artifact=build, mode="cpu8")


def _run(harbour, *agents):
    run = evalrun_create(RunRequest(eval_set=harbour, agents=agents))
    evalrun_execute(run.pk)
    run.refresh_from_db()
    return run


def test_token_f1_is_paired_with_the_agent_that_has_the_adapter(report, harbour):
    quality = quantization_quality_from(report, _run(harbour, "tuned", "quick")).quality
    found = quality["token_f1"]
    assert (found["value"], found["unquantized"], found["difference"], found["n"]) == (0.5, 0.5, 0.0, 2)
    assert found["interval"][0] < 0 < found["interval"][1]
    assert "judge_score" not in quality
    report.refresh_from_db()
    assert report.quality == quality


def test_a_run_that_did_not_ask_both_says_whom_it_must_ask(report, harbour):
    with pytest.raises(InvalidInput, match="one agent with the build quantized"):
        quantization_quality_from(report, _run(harbour, "quick"))


def test_the_commands_option_and_the_admins_button_carry_it_over(report, harbour, admin_client, capsys):
    run = _run(harbour, "tuned", "quick")
    call_command("quantize", "--report", str(report.pk), "--eval-run", str(run.pk), "--json")
    assert json.loads(capsys.readouterr().out)["quality"]["token_f1"]["n"] == 2
    QuantizationReport.objects.update(quality={})
    button = reverse("admin:training_quantizationreport_quality", args=[report.pk])
    page = reverse("admin:training_quantizationreport_change", args=[report.pk])
    assert button in admin_client.get(page).content.decode()
    assert f'value="{run.pk}"' in admin_client.get(button).content.decode()
    admin_client.post(button, {"eval_run": run.pk})
    assert "token F1 0.500" in admin_client.get(page).content.decode()
    only = _run(harbour, "quick")
    assert "one agent with the build quantized" in admin_client.post(button, {"eval_run": only.pk}).content.decode()


def test_the_option_takes_both_numbers(db, capsys):
    with pytest.raises(SystemExit) as ended:
        call_command("quantize", "--report", "1")
    assert ended.value.code == 2 and "--eval-run" in capsys.readouterr().err
