"""From the log to an agent: dataset, training job, artifact, candidate, answer."""

import io
import json
from dataclasses import replace

import pytest
from django.core.management import call_command
from django.test import override_settings

from adaptrag.common.errors import Conflict, InvalidInput
from adaptrag.common.jobs import job_run
from adaptrag.common.models import Job
from agents.models import AgentVariant, ModelArtifact
from agents.selectors import live_variant, live_variants
from agents.services import agent_register, agents_register_defaults
from agents.services.agents import agent_chat
from rewards.models import Interaction
from tests.agents.tiny_chat import ask, make
from tests.training.chats import TOWNS, logged, passage
from training.errors import NothingToLearn, UnknownDataset, UnknownRun
from training.lora import newest_checkpoint
from training.models import SFTDataset, SFTExample, TrainingRun
from training.recipe import Recipe
from training.selectors import interactions_behind
from training.services import (
    DatasetRequest,
    TrainingRequest,
    dataset_drop,
    dataset_enqueue,
    dataset_for,
    dataset_prepare,
    training_cancel,
    training_get,
    training_resume,
    training_start,
)

pytestmark = pytest.mark.django_db

RECIPE = Recipe(steps=2, batch=2, micro=1, every=1, threads=1, learning_rate=0.01)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "student")


@pytest.fixture
def site(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.ADAPTRAG_LOCAL_MODEL = "inprocess"
    settings.ADAPTRAG_LOCAL_THREADS = settings.ADAPTRAG_TRAINING_THREADS = 1
    agents_register_defaults()
    return live_variant("hybrid_rag")


@pytest.fixture
def log(site):
    """Ten questions with corrections, one with a good answer, one with a bad one, one without a rating."""
    for town in TOWNS:
        logged(site, f"When was the bridge of {town} built?", "I think 1950.", reward=0.1, correction="1701")
    logged(site, "Which mason worked on the bridge?", "Arnbert Stone", reward=1.0)
    logged(site, "Who painted the town hall green?", "Nobody", reward=0.2)
    logged(site, "Which river flows by?", "the Lune")


def _prepared(student, **values):
    return dataset_prepare(DatasetRequest(student=str(student), **values))


def _trained(student, dataset, **values):
    run = training_start(TrainingRequest(dataset=dataset.pk, model=str(student), recipe=RECIPE, **values))
    _worked(run.job_id)
    return training_get(run.pk)


def _worked(job):
    """Run a job here, without the heart that beats in a thread: it would need a second connection to the test's database."""
    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        return job_run(job, here=True)


def test_a_dataset_holds_what_was_corrected_or_rated_well_and_tells_of_the_rest(log, student):
    dataset = _prepared(student)
    assert dataset.counts["train"] + dataset.counts["validation"] == 11
    assert dataset.counts["origins"] == {"correction": 10, "best": 1}
    reasons = set(dataset.examples.filter(split="left_out").values_list("reason", flat=True))
    assert reasons == {
        "Its rating 0.20 is under 0.8, and it has no other target.",
        "Nobody rated it, and it has no other target.",
    }


def test_an_example_is_the_prompt_as_the_agent_saw_it(log, student):
    example = _prepared(student).examples.get(question="Which mason worked on the bridge?")
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]
    assert passage("Arnsberg", 1) in example.messages[1]["content"]
    assert "Not in the prompt" not in example.messages[1]["content"]
    assert example.messages[2]["content"] == "Arnbert Stone"
    assert example.interaction.question == example.question


def test_the_files_are_json_lines_that_datasets_and_trl_read(log, student, settings):
    dataset = _prepared(student)
    rows = [json.loads(line) for line in dataset.file.read_text().splitlines()]
    assert dataset.file == settings.DATA_DIR / f"training/data/dataset-{dataset.pk}/sft_train.jsonl"
    assert [row["messages"] for row in rows] == list(dataset.examples.filter(split="train").values_list("messages", flat=True))
    held_out = dataset.file.with_name("sft_validation.jsonl").read_text().splitlines()
    assert len(held_out) == dataset.counts["validation"]
    from datasets import load_dataset

    read = load_dataset("json", data_files=str(dataset.file), split="train", cache_dir=str(settings.DATA_DIR / "cache"))
    assert read.column_names == ["messages"] and read.to_list() == rows


def test_a_dataset_s_file_stays_as_it_is_and_the_default_name_is_a_copy_of_the_newest(log, student, settings, tmp_path):
    first = _prepared(student)
    before = first.file.read_bytes()
    second = _prepared(student, source="best", out=tmp_path / "mine.jsonl")
    assert first.file.read_bytes() == before != second.file.read_bytes()
    copies = [settings.DATA_DIR / "training/data/sft_train.jsonl", tmp_path / "mine.jsonl"]
    assert [copy.read_bytes() for copy in copies] == [second.file.read_bytes()] * 2
    assert (tmp_path / "mine_validation.jsonl").is_file()


def test_the_same_log_gives_the_same_dataset(log, student):
    assert _prepared(student).sha256 == _prepared(student).sha256


def test_questions_of_an_eval_set_stay_out(log, student):
    from evals.models import EvalQuestion, EvalSet

    eval_set = EvalSet.objects.create(name="exam", source="jsonl", sha256="0" * 64)
    EvalQuestion.objects.create(eval_set=eval_set, key="1", ordinal=1, question="which mason worked on the bridge")
    example = _prepared(student).examples.get(question="Which mason worked on the bridge?")
    assert (example.split, example.reason) == ("left_out", "It is, or nearly is, a question of an eval set.")


def test_without_a_log_the_built_in_questions_are_taken_and_named_so(site, student):
    dataset = _prepared(student, max_tokens=1000)
    assert dataset.source == SFTDataset.Source.BUILTIN
    assert set(dataset.counts["origins"]) == {"builtin"}
    examples = dataset.examples.exclude(split="left_out")
    assert all(example.interaction is None and example.origin == "builtin" for example in examples)


def test_every_built_in_answer_stands_in_its_section():
    from training.builtin import builtin_candidates

    for one in builtin_candidates():
        text = one.prompt(1)[1]["content"].lower()
        missing = [word for word in one.corrections[0].lower().replace(":", "").split() if word.strip(".,") not in text]
        assert len(missing) <= 1, (one.question, missing)


def test_dropping_examples_makes_another_dataset_and_leaves_the_first(log, student):
    dataset = _prepared(student)
    example = dataset.examples.filter(split="train").first()
    child = dataset_drop(dataset, [example.pk])
    assert child.parent == dataset
    assert child.sha256 != dataset.sha256
    assert child.counts["train"] == dataset.counts["train"] - 1 == dataset.examples.filter(split="train").count() - 1
    assert child.examples.get(question=example.question).reason == "Dropped."
    with pytest.raises(InvalidInput):
        dataset_drop(child, [example.pk])


@pytest.mark.parametrize("values", [{"min_reward": 2}, {"source": "rumours"}])
def test_wrong_filters_are_told(site, student, values):
    with pytest.raises(InvalidInput):
        _prepared(student, **values)


def test_a_log_that_gives_nothing_says_why(site, student):
    logged(site, "Who painted the town hall?", "Nobody", reward=0.1)
    with pytest.raises(NothingToLearn, match="1 x Its rating"):
        _prepared(student)


def test_unknown_numbers_are_answered_with_the_newest(log, student):
    dataset = _prepared(student)
    with pytest.raises(UnknownDataset, match=f"newest is {dataset.pk}"):
        dataset_for(999)
    with pytest.raises(UnknownRun, match="none yet"):
        training_get(999)


def test_a_training_becomes_an_artifact_a_candidate_and_an_answer(log, student, settings):
    dataset = _prepared(student)
    run = _trained(student, dataset)
    assert run.job.state == Job.State.SUCCEEDED, run.job.error
    artifact = run.artifact
    assert artifact.kind == ModelArtifact.Kind.ADAPTER
    assert artifact.provenance == {"training": run.pk, "dataset": dataset.pk, "dataset_sha256": dataset.sha256}
    assert (artifact.folder / "adapter_model.safetensors").is_file()
    assert {"step", "train_loss"} <= set(run.curve[0])
    assert not run.folder.exists()
    variant = artifact.variants.get()
    assert (variant.name, variant.state, variant.inherit) == ("lora_rag", "candidate", 0.25)
    assert variant.predecessor.name == "hybrid_rag"
    assert variant not in live_variants()
    completion = agent_chat(live_variant("lora_rag@1")).complete(ask("Which river?"), max_tokens=4)
    assert completion.model == artifact.name
    assert {row.pk for row in interactions_behind(run)} == set(
        Interaction.objects.filter(sft_examples__dataset=dataset, sft_examples__split="train").values_list("pk", flat=True)
    )


def test_the_next_training_makes_the_next_revision_and_another_name(log, student):
    dataset = _prepared(student)
    first, second = _trained(student, dataset), _trained(student, dataset)
    assert first.artifact.name != second.artifact.name
    assert list(AgentVariant.objects.filter(name="lora_rag").values_list("revision", flat=True)) == [2, 1]
    assert second.artifact.variants.get().predecessor == first.artifact.variants.get()


def test_a_training_killed_before_its_candidate_is_there_is_not_done_and_makes_one_when_resumed(log, student, monkeypatch):
    from training.services import trainings

    class Killed(BaseException):
        pass

    def killed(**values):
        raise Killed

    dataset = _prepared(student)
    with monkeypatch.context() as patched:
        patched.setattr(trainings, "agent_register", killed)
        run = training_start(TrainingRequest(dataset=dataset.pk, model=str(student), recipe=RECIPE))
        with pytest.raises(Killed):
            _worked(run.job_id)
    assert not ModelArtifact.objects.exists()
    Job.objects.filter(pk=run.job_id).update(state=Job.State.FAILED)  # what the worker that waits for the child writes
    _worked(training_resume(training_get(run.pk)).pk)
    assert training_get(run.pk).artifact.variants.get().state == "candidate"


SERVED = {"chat_backend": "openai_compatible", "chat_options": {"base_url": "http://127.0.0.1:9/v1", "timeout": 9}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SERVED, SERVED),
        (SERVED | {"chat_model": "another"}, {"chat_backend": "local", "chat_options": {"timeout": 9}}),
        (
            {"chat_options": {"adapter": {"name": "old", "path": "/old"}, "max_tokens": 7}},
            {"chat_backend": "local", "chat_options": {"max_tokens": 7}},
        ),
        ({"enabled": False}, {"chat_backend": "local", "chat_options": {}}),
    ],
    ids=["on a server", "on a server with another model", "with an adapter of its own", "switched off"],
)
def test_the_next_revision_runs_where_the_last_one_did_or_here_and_is_switched_on(log, student, before, after):
    agent_register(**{"name": "lora_rag", "strategy": "lora_rag", "chat_model": str(student)} | before)
    run = _trained(student, _prepared(student))
    assert run.job.state == Job.State.SUCCEEDED, run.job.error
    variant = run.artifact.variants.get()
    found = {name: getattr(variant, name) for name in ("chat_backend", "chat_options", "chat_model", "enabled", "state")}
    assert found == after | {"chat_model": str(student), "enabled": True, "state": "candidate"}


def test_a_finished_training_is_not_resumed_and_a_second_delivery_does_nothing(log, student):
    run = _trained(student, _prepared(student))
    with pytest.raises(Conflict, match="is done"):
        training_resume(run)
    assert _worked(run.job_id) == Job.State.SUCCEEDED
    assert ModelArtifact.objects.count() == 1


def test_a_cancelled_training_can_be_resumed(log, student):
    run = training_start(TrainingRequest(dataset=_prepared(student).pk, model=str(student), recipe=RECIPE))
    assert training_cancel(run).state == Job.State.CANCELLED
    _worked(training_resume(run).pk)
    run.refresh_from_db()
    assert run.artifact is not None


def test_cancelling_a_running_training_keeps_its_last_checkpoint_and_resumes_from_it(log, student, monkeypatch):
    monkeypatch.setattr("adaptrag.common.context.WRITE_INTERVAL", 0)
    recipe = replace(RECIPE, steps=6, every=2, patience=0)
    run = training_start(TrainingRequest(dataset=_prepared(student).pk, model=str(student), recipe=recipe))

    def watch(fraction, message):
        if message.startswith("step 5 "):
            training_cancel(run)

    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        assert job_run(run.job_id, here=True, on_progress=watch) == Job.State.CANCELLED
    assert newest_checkpoint(run.folder).endswith("checkpoint-4")
    _worked(training_resume(run).pk)
    run = training_get(run.pk)
    assert run.artifact.metrics["steps"] == 6
    assert [point["step"] for point in run.curve if "train_loss" in point] == [1, 2, 3, 4, 5, 6]


def test_what_ran_out_of_memory_is_resumed_with_smaller_portions_and_a_wrong_rate_needs_another_training(log, student):
    run = training_start(TrainingRequest(dataset=_prepared(student).pk, model=str(student), recipe=RECIPE))
    training_cancel(run)
    with pytest.raises(InvalidInput, match="micro must be a whole number"):
        training_resume(run, micro=0)
    job = training_resume(run, micro=2, quantized=False)
    run.refresh_from_db()
    assert (run.recipe["micro"], run.recipe["quantized"], job.state) == (2, False, Job.State.QUEUED)
    assert _worked(job.pk) == Job.State.SUCCEEDED
    assert training_get(run.pk).artifact.parameters["micro"] == 2


def test_the_command_refuses_to_resume_with_what_a_resumed_training_can_t_change(db):
    error = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("train_lora", "--resume", "1", "--learning-rate", "0.0001", "--steps", "3", stderr=error)
    assert ended.value.code == 2
    assert "--steps, --learning-rate" in error.getvalue()


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"r": True}, {"learning_rate": float("nan")}, {"precision": "int3"}, {"batch": 2.5}]
)
def test_a_recipe_that_can_t_be_is_told_by_name(log, student, values):
    dataset = _prepared(student)
    with pytest.raises(InvalidInput, match=next(iter(values))):
        training_start(TrainingRequest(dataset=dataset.pk, model=str(student), recipe=Recipe(**values)))
    assert not TrainingRun.objects.exists()


def test_a_name_that_no_agent_can_have_is_told(log, student):
    with pytest.raises(InvalidInput, match=r"No agent can be called 'Two words'\. Use 1 to 64 lower-case"):
        training_start(TrainingRequest(dataset=_prepared(student).pk, model=str(student), recipe=RECIPE, agent="Two words"))


# lora_rag ---------------------------------------------------------------------------------------------------------------


def _fails_over_to(variant):
    return agent_chat(variant).complete(ask("Which river?"), max_tokens=4)


def test_an_adapter_that_is_gone_fails_over_to_the_rows_model_alone_and_says_so(log, student):
    import shutil

    run = _trained(student, _prepared(student))
    shutil.rmtree(run.artifact.folder)
    fallback = {"backend": "scripted", "model": "spare", "options": {"answer": "by the spare"}}
    values = {"strategy": "lora_rag", "chat_model": str(student), "artifact": run.artifact}
    told = _fails_over_to(agent_register(name="told", chat_options={"fallback": fallback}, **values))
    assert (told.text, told.fallback["from"], told.fallback["to"]) == ("by the spare", run.artifact.name, "scripted:spare")
    assert "There is no adapter" in told.fallback["reason"]
    from agents.errors import ChatModelUnavailable

    with pytest.raises(ChatModelUnavailable, match="There is no adapter"):
        _fails_over_to(agent_register(name="alone", **values))


def test_lora_adapters_path_names_the_adapter_of_agents_without_an_artifact(log, student):
    from agents.errors import ChatModelUnavailable

    run = _trained(student, _prepared(student))
    variant = agent_register(name="configured", strategy="lora_rag", chat_model=str(student))
    with pytest.raises(ChatModelUnavailable, match="LORA_ADAPTERS_PATH"):
        _fails_over_to(variant)
    with override_settings(LORA_ADAPTERS_PATH=str(run.artifact.folder)):
        assert _fails_over_to(variant).model == f"folder-{run.artifact.sha256[:16]}"
    with override_settings(LORA_ADAPTERS_PATH="/nowhere"), pytest.raises(ChatModelUnavailable, match="adapter in /nowhere"):
        _fails_over_to(variant)


def test_examples_are_rows_of_their_dataset_alone(log, student):
    dataset = _prepared(student)
    assert SFTExample.objects.filter(dataset=dataset).count() == Interaction.objects.count()


def test_a_dataset_is_prepared_on_the_queue_as_asked_and_its_job_names_it(log, student, tmp_path):
    job = dataset_enqueue(DatasetRequest(min_reward=0.5, student=str(student), scrub=False, out=tmp_path / "out.jsonl"))
    assert not SFTDataset.objects.exists()
    assert _worked(job.pk) == Job.State.SUCCEEDED
    job.refresh_from_db()
    assert job.result["dataset"] == SFTDataset.objects.get().pk
    filters = SFTDataset.objects.get().filters
    assert (filters["min_reward"], filters["student"], filters["scrub"]) == (0.5, str(student), False)
    assert (tmp_path / "out.jsonl").is_file()


def test_a_wrong_request_is_refused_before_anything_is_queued(db):
    with pytest.raises(InvalidInput, match="min_reward"):
        dataset_enqueue(DatasetRequest(min_reward=2))
    assert not Job.objects.exists()


def test_a_training_from_a_web_process_needs_a_dataset(db):
    with pytest.raises(UnknownDataset, match="Prepare one first"):
        training_start(TrainingRequest())
    assert not SFTDataset.objects.exists()
