"""Builds of models of a few kilobytes: made, reloaded, measured, registered, answered with."""

import json

import pytest
from django.db.models import ProtectedError
from django.test import override_settings

from adaptrag.common.errors import InvalidInput
from adaptrag.common.jobs import job_run
from agents.errors import ChatModelUnavailable
from agents.llm.engine import Engine
from agents.llm.engines import Engines
from agents.llm.runner import load_runner
from agents.llm.weights import model_folder
from agents.models import AgentVariant, ModelArtifact
from agents.services import agent_register
from agents.services.agents import agent_chat
from tests.agents.tiny_chat import Answer, ask, make
from tests.training.chats import chats
from training.errors import QuantizationFailed
from training.lora import train_lora
from training.quantization import MODES, merge, quantize
from training.recipe import Recipe
from training.services import (
    QuantizationRequest,
    quantization_choose,
    quantization_get,
    quantization_resume,
    quantization_start,
)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "student")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def adapter(student, tmp_path_factory):
    recipe = Recipe(steps=2, batch=2, micro=1, threads=1, learning_rate=0.05)
    return train_lora(student, chats(4), [], tmp_path_factory.mktemp("lora"), recipe).path


def _answer(folder, form="fp32", adapter=None):
    engine = Engine(folder, form=form, threads=1)
    try:
        if adapter:
            engine.load_adapter("adapter", adapter)
        events = Answer(engine, "How are you?", max_tokens=12) if not adapter else _with(engine)
        events.wait()
        return events.text
    finally:
        engine.close()


class _with(Answer):
    def __init__(self, engine):
        import queue

        from agents.llm.sampling import Sampling

        self._events, self.pieces = queue.SimpleQueue(), []
        engine.submit(ask("How are you?"), Sampling(max_tokens=12), self._events.put, timeout=60, adapter="adapter")


def test_a_merged_model_answers_as_the_adapter_beside_its_base(student, adapter, tmp_path):
    merged = merge(student, adapter, tmp_path / "merged", "fp32")
    assert _answer(merged) == _answer(student, adapter=adapter) != _answer(student)


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_mode_reloads_and_answers_or_says_which_modes_do(family, mode, student, gpt2, tmp_path):
    base = {"llama": student, "gpt2": gpt2}[family]
    if (family, mode) == ("gpt2", "cpu8"):
        with pytest.raises(QuantizationFailed, match=r"Modes for it: fp32, bf16, int8, nf4"):
            quantize(base, None, mode, tmp_path / "build", work=tmp_path)
        return
    quantize(base, None, mode, tmp_path / "build", work=tmp_path, chats=chats(4))
    assert not [file for file in (tmp_path / "build").iterdir() if file.suffix in (".bin", ".pt", ".pkl")]
    assert load_runner(tmp_path / "build").form == mode
    assert len(_answer(tmp_path / "build")) > 0


@pytest.fixture
def site(settings, tmp_path, db):
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.ADAPTRAG_LOCAL_MODEL = "inprocess"
    settings.ADAPTRAG_LOCAL_THREADS = 1
    settings.ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE = 10.0
    settings.ADAPTRAG_QUANTIZATION_MIN_OVERLAP = 0.0


def _quantized(student, **values):
    report = quantization_start(QuantizationRequest(model=str(student), **values))
    _worked(report)
    return quantization_get(report.pk)


def _worked(report):
    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        job_run(report.job_id, here=True)


@pytest.mark.slow
def test_a_build_becomes_an_artifact_and_a_candidate_that_answers(site, student, settings):
    report = _quantized(student, mode="bf16")
    assert report.job.state == "succeeded", report.job.error
    assert report.artifact.kind == ModelArtifact.Kind.QUANTIZED
    assert report.variant.state == AgentVariant.State.CANDIDATE and report.variant.strategy == "quantized_rag"
    assert report.figures["decode_8_tokens_per_second"] > 0 and report.unquantized["weights_bytes"] > 0
    assert report.fidelity["answers"] == 20 and 0 <= report.fidelity["agreement"] <= 1
    assert model_folder(report.artifact.name) == report.artifact.folder
    completion = agent_chat(report.variant).complete(ask("How are you?"), max_tokens=4)
    assert completion.model == report.artifact.name
    assert not (settings.DATA_DIR / "quantization" / str(report.pk)).exists()
    engines = Engines()  # as the model process has them
    assert engines.find(report.artifact.name)[0].describe()["form"] == "bf16"
    engines.close()
    choice = quantization_choose(report, reason="half the memory")
    assert choice.report == report
    with pytest.raises(InvalidInput, match="why"):
        quantization_choose(report, reason=" ")


@pytest.mark.slow
def test_a_build_that_drifts_fails_and_leaves_nothing(site, student, settings):
    settings.ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE = -0.5
    report = _quantized(student, mode="fp32")
    assert report.job.state == "failed" and "MAX_PERPLEXITY_RISE" in report.job.error
    assert not ModelArtifact.objects.exists() and not AgentVariant.objects.exists()
    assert not list(settings.DATA_DIR.rglob("*.safetensors"))
    settings.ADAPTRAG_QUANTIZATION_MAX_PERPLEXITY_RISE = 0.1
    _worked_again = quantization_resume(report)
    _worked(quantization_get(report.pk))
    assert _worked_again and quantization_get(report.pk).artifact is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [({"mode": "q3"}, "There is no mode 'q3'; there are cpu8"), ({"adapter": "lora-9"}, "There is no adapter 'lora-9'")],
    ids=["mode", "adapter"],
)
def test_what_is_not_there_is_refused_with_what_is(site, values, message):
    with pytest.raises(InvalidInput, match=message):
        quantization_start(QuantizationRequest(**values))


def test_a_build_json_that_is_damaged_is_said(student, tmp_path):
    quantize(student, None, "fp32", tmp_path / "build", work=tmp_path)
    (tmp_path / "build" / "build.json").write_text(json.dumps({"mood": 1}))
    with pytest.raises(ChatModelUnavailable, match="unreadable"):
        load_runner(tmp_path / "build")


def test_an_artifact_in_use_can_t_be_deleted_and_its_files_go_with_the_row(site, settings, django_capture_on_commit_callbacks):
    folder = settings.DATA_DIR / "artifacts" / "build-1"
    folder.mkdir(parents=True)
    artifact = ModelArtifact.objects.create(
        name="build-1", kind="quantized", base_model="smollm2", path="artifacts/build-1", sha256="0"
    )
    variant = agent_register(name="quick", strategy="naive_rag", artifact=artifact, state="candidate")
    with pytest.raises(ProtectedError):
        artifact.delete()
    assert folder.is_dir()
    variant.delete()
    with django_capture_on_commit_callbacks(execute=True):
        artifact.delete()
    assert not folder.exists()


def test_the_chat_model_of_an_agent_with_a_build_is_the_build_by_its_name(site):
    artifact = ModelArtifact.objects.create(name="build-2", kind="quantized", base_model="smollm2", path="x", sha256="0")
    for strategy in ("naive_rag", "quantized_rag"):
        variant = agent_register(name=f"with_{strategy}", strategy=strategy, artifact=artifact, state="candidate")
        assert agent_chat(variant).name == "build-2"
    bare = agent_register(name="bare", strategy="quantized_rag", state="candidate")
    with pytest.raises(ChatModelUnavailable, match="has no build"):
        agent_chat(bare).complete(ask("Hello?"))


def test_eight_answers_of_a_cpu8_build_are_those_that_it_gives_alone(student, tmp_path):
    quantize(student, None, "cpu8", tmp_path / "build", work=tmp_path, chats=chats(4))
    engine = Engine(tmp_path / "build", threads=1)
    try:
        texts = [f"Question {number}{'!' * 40 * number}" for number in range(8)]
        alone = []
        for text in texts:
            one = Answer(engine, text, max_tokens=10)
            one.wait()
            alone.append(one.text)
        together = [Answer(engine, text, max_tokens=10) for text in texts]
        for one in together:
            one.wait()
        assert [one.text for one in together] == alone and len(set(alone)) > 1
    finally:
        engine.close()
