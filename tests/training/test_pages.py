"""The admin's pages and the API of training: who may, what they show, that they start the services' work."""

import pytest
from django.contrib.auth import get_user_model
from django.test import override_settings
from django.urls import reverse

from adaptrag.common.jobs import job_run
from adaptrag.common.models import Job
from agents.models import ModelArtifact
from agents.selectors import live_variant
from agents.services import agents_register_defaults
from tests.agents.tiny_chat import make
from tests.training.chats import logged
from training.admin.curve import loss_curve
from training.admin.facts import COUNTS, RECIPE, RESULT, facts
from training.models import DistillationRun, QuantizationReport, SFTDataset, SFTExample, TeacherBudget, TrainingRun
from training.selectors import builds, pareto
from training.services import budget_get

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    client.force_login(get_user_model().objects.create_superuser("root", password="x" * 12))
    return client


@pytest.fixture
def run(staff):
    """A training under way, of a dataset with one example kept and one left out."""
    agents_register_defaults()
    row = logged(live_variant("hybrid_rag"), "Who built <b>it</b>?", "Anna", reward=1.0)
    dataset = SFTDataset.objects.create(sha256="0" * 64, counts={"train": 2, "validation": 0, "left_out": {"why": 1}}, path="x")
    for number, split in enumerate(("train", "train", "left_out")):
        SFTExample.objects.create(
            dataset=dataset, interaction=row, split=split, question=f"{row.question} {number}", target="Anna",
            reason="why" if split == "left_out" else "", messages=[{"role": "user", "content": "x"}],
        )  # fmt: skip
    job = Job.objects.create(kind="training.train", state="running", progress=0.4, message="step 2 of 5")
    curve = [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.0, "tokens_per_second": 300}]
    return TrainingRun.objects.create(dataset=dataset, job=job, base_model="smollm2", recipe={"steps": 5}, curve=curve)


def test_every_page_opens(staff, run):
    run.artifact = ModelArtifact.objects.create(name="lora-1", kind="adapter", base_model="smollm2", path="x", sha256="0")
    run.save()
    distillation = DistillationRun.objects.create(budget=budget_get(), backend="local", model="m")
    rows = [run, run.dataset, run.dataset.examples.first(), run.artifact, distillation, distillation.budget]
    for row in rows:
        name = f"admin:{row._meta.app_label}_{row._meta.model_name}"
        assert staff.get(reverse(f"{name}_changelist")).status_code == 200, name
        page = staff.get(reverse(f"{name}_change", args=[row.pk]))
        assert page.status_code == 200, name
        assert "<b>it</b>" not in page.content.decode()


def test_one_walks_from_an_interaction_to_what_learned_from_it_and_back(staff, run):
    run.artifact = ModelArtifact.objects.create(name="lora-1", kind="adapter", base_model="smollm2", path="x", sha256="0")
    run.save()
    build = ModelArtifact.objects.create(
        name="quant-1", kind="quantized", base_model="smollm2", path="y", sha256="1", parent=run.artifact
    )
    row = run.dataset.examples.first().interaction
    page = staff.get(reverse("admin:rewards_interaction_change", args=[row.pk])).content.decode()
    shown = page.split("Learned from by")[1]
    for one in (run.dataset, run.artifact, build):
        assert reverse(f"admin:{one._meta.app_label}_{one._meta.model_name}_change", args=[one.pk]) in shown
    for one in (run.artifact, build):
        page = staff.get(reverse("admin:agents_modelartifact_change", args=[one.pk])).content.decode()
        assert "1 logged questions" in page and f"dataset__id__exact={run.dataset_id}" in page
    other = logged(live_variant("hybrid_rag"), "Who else?", "Bert", reward=1.0)
    page = staff.get(reverse("admin:rewards_interaction_change", args=[other.pk])).content.decode()
    assert "No dataset has it to train on." in page


def test_the_page_of_a_training_shows_its_loss_curve_live(staff, run):
    page = staff.get(reverse("admin:training_trainingrun_change", args=[run.pk])).content.decode()
    assert "step 2 of 5" in page
    assert 'points="20.0,0.0 40.0,50.0"' in page  # of 5 steps, the axis from 0 to 2
    status = reverse("admin:training_trainingrun_status", args=[run.pk])
    assert f'hx-get="{status}"' in page
    Job.objects.update(state="failed", error="Memory ran out.")
    body = staff.get(status).content.decode()
    assert "Memory ran out." in body
    assert "hx-get" not in body


def test_a_curve_of_one_point_is_no_picture():
    assert loss_curve([{"step": 1, "train_loss": 2.0}], 5) == {}


@pytest.mark.parametrize(
    ("highest", "marks"),
    [(0.0, "0 2.5e-10 5e-10 7.5e-10 1e-09"), (0.0004, "0 0.0001 0.0002 0.0003 0.0004"), (3.87, "0 1 2 3 4"), (11, "0 5 10 15")],
)
def test_the_axes_of_a_curve_have_round_marks_and_the_kept_step(highest, marks):
    curve = [{"step": 1, "train_loss": highest}, {"step": 2, "validation_loss": highest / 2}]
    drawn = loss_curve(curve, 100, best=2)
    assert " ".join(mark["text"] for mark in drawn["down"]) == marks
    assert [mark["text"] for mark in drawn["across"]] == ["0", "50", "100"]
    assert drawn["rows"] == [{"step": 1, "train": highest}, {"step": 2, "validation": highest / 2}]
    assert (drawn["best"], drawn["lowest"]) == ({"step": 2, "x": 2.0}, highest / 2)
    assert all(0 <= point[axis] <= 100 for point in drawn["points"] for axis in "xy")


@pytest.mark.parametrize(
    ("steps", "marks"), [(2, "0 1 2"), (10, "0 5 10"), (15, "0 5 10 15"), (1_000_000, "0 500,000 1,000,000")]
)
def test_steps_are_marked_by_whole_numbers(steps, marks):
    curve = [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.0}]
    assert " ".join(mark["text"] for mark in loss_curve(curve, steps)["across"]) == marks


def test_a_long_curve_lists_the_validated_steps_and_the_last():
    curve = [{"step": step, "train_loss": 1.0} for step in range(1, 201)]
    curve[99:99] = [{"step": 99, "validation_loss": 2.0}]
    drawn = loss_curve(curve, 200)
    assert [row["step"] for row in drawn["rows"]] == [99, 200]
    assert [point["name"] for point in drawn["points"]] == ["validation"]


def test_a_page_says_its_figures_in_words_and_escapes_what_has_none():
    shown = facts({"steps": 1500, "learning_rate": None, "<b>new</b>": "<i>"}, RECIPE)
    assert shown.index("Steps") < shown.index("1,500") < shown.index("by the width of the model")
    assert "&lt;b&gt;new&lt;/b&gt;" in shown
    assert "&lt;i&gt;" in shown
    plain = facts({"adapter": None, "times": {"p50": 1.25, "cold": False}}, {})
    assert "<td>–</td>" in plain
    assert "p50 1.25, cold no" in plain
    reasons = facts({"left_out": {"Rated <low>.": 2, "Not rated.": 1200}}, COUNTS)
    assert reasons.index("1,200 × Not rated.") < reasons.index("2 × Rated &lt;low&gt;.")
    assert facts({}, RESULT) == "–"


def test_dropping_examples_on_their_page_makes_another_dataset(staff, run):
    example = run.dataset.examples.filter(split="train").first()
    url = reverse("admin:training_sftexample_changelist")
    staff.post(url, {"action": "drop", "_selected_action": [example.pk]})
    child = SFTDataset.objects.get(parent=run.dataset)
    assert child.counts["train"] == 1
    assert child.examples.filter(reason="Dropped by root.").count() == 1


def test_cancel_asks_first_and_then_asks_the_job(staff, run):
    url = reverse("admin:training_trainingrun_cancel", args=[run.pk])
    assert staff.get(url).status_code == 200
    run.job.refresh_from_db()
    assert not run.job.cancel_requested
    staff.post(url, {"confirmed": "yes"})
    run.job.refresh_from_db()
    assert run.job.cancel_requested


def test_the_form_starts_a_training_on_the_chosen_dataset(staff, run):
    url = f"{reverse('admin:training_trainingrun_changelist')}start/"
    assert "prepared from the log first" in staff.get(url).content.decode()
    values = {"source": "all", "model": "smollm2", "steps": 3, "r": 4, "learning_rate": 0.002, "micro": 1, "agent": ""}
    assert "greater than or equal to 1" in staff.post(url, values | {"steps": 0}).content.decode()
    answer = staff.post(url, values | {"dataset": run.dataset_id})
    made = TrainingRun.objects.first()
    assert answer.url == reverse("admin:training_trainingrun_change", args=[made.pk])
    assert (made.dataset, made.agent, made.created_by.username) == (run.dataset, "", "root")
    assert {name: made.recipe[name] for name in ("steps", "r", "learning_rate", "micro")} == {
        "steps": 3, "r": 4, "learning_rate": 0.002, "micro": 1,
    }  # fmt: skip


def test_without_a_dataset_the_form_prepares_one_on_the_queue_and_then_trains(staff, tmp_path, monkeypatch):
    agents_register_defaults()
    row = logged(live_variant("hybrid_rag"), "Which mason worked on the bridge?", "x", reward=0.1, correction="Stone")
    student = str(make(tmp_path / "student"))
    url = f"{reverse('admin:training_trainingrun_changelist')}start/"
    values = {"source": "corrections", "model": student, "steps": 3, "r": 4, "learning_rate": 0.002, "micro": 1}
    answer = staff.post(url, values | {"agent": "lora_rag"})
    job = Job.objects.get()
    assert answer.url == reverse("admin:common_job_change", args=[job.pk])
    with override_settings(ADAPTRAG_JOBS_EAGER=True):
        # The training itself is not this test's.
        monkeypatch.setattr("training.services.trainings.job_enqueue", lambda *args, **values: None)
        job_run(job.pk, here=True)
    job.refresh_from_db()
    assert job.state == "succeeded", job.error
    made = TrainingRun.objects.get()
    assert (made.pk, made.dataset_id) == (job.result["training"], job.result["dataset"])
    assert (made.base_model, made.recipe["steps"], made.dataset.source) == (student, 3, "corrections")
    assert made.dataset.examples.get(split="train").interaction == row


def test_a_distillation_is_started_watched_cancelled_and_resumed_on_its_pages(staff, settings):
    settings.ADAPTRAG_TEACHER_MODEL, settings.ADAPTRAG_TEACHER_BACKEND = "big", "local"
    url = f"{reverse('admin:training_distillationrun_changelist')}start/"
    assert "The teacher (big)" in staff.get(url).content.decode()
    assert "no batch API" in staff.post(url, {"samples": 1, "batch": "on"}).content.decode()
    staff.post(url, {"samples": 2, "limit": 7})
    made = DistillationRun.objects.get()
    assert (made.model, made.backend, made.parameters["samples"], made.parameters["limit"]) == ("big", "local", 2, 7)
    page = reverse("admin:training_distillationrun_change", args=[made.pk])
    cancel, resume = (reverse(f"admin:training_distillationrun_{verb}", args=[made.pk]) for verb in ("cancel", "resume"))
    assert cancel in staff.get(page).content.decode()
    staff.post(cancel, {"confirmed": "yes"})
    assert Job.objects.get().state == "cancelled"
    assert resume in staff.get(page).content.decode()
    staff.post(resume, {"confirmed": "yes"})
    assert Job.objects.get().state == "queued"


def test_changing_a_limit_leaves_what_was_spent_meanwhile(staff):
    budget = budget_get()
    TeacherBudget.objects.update(spent=7)
    staff.post(reverse("admin:training_teacherbudget_change", args=[budget.pk]), {"name": "default", "limit": 9})
    budget.refresh_from_db()
    assert (budget.limit, budget.spent) == (9, 7)


# API --------------------------------------------------------------------------------------------------------------------


def test_the_api_starts_watches_and_cancels_a_training(staff, run):
    answer = staff.post("/api/training/runs", {"dataset": run.dataset_id, "steps": 3}, content_type="application/json")
    assert answer.status_code == 202, answer.json()
    number = answer.json()["run"]
    detail = staff.get(f"/api/training/runs/{number}").json()
    assert (detail["state"], detail["recipe"]["steps"], detail["curve"]) == ("queued", 3, [])
    assert [row["run"] for row in staff.get("/api/training/runs").json()["results"]] == [number, run.pk]
    assert staff.post(f"/api/training/runs/{number}/cancel").json()["state"] == "cancelled"
    url = f"/api/training/runs/{number}/resume"
    assert staff.post(url, {"steps": 9}, content_type="application/json").status_code == 400
    again = staff.post(url, {"micro": 1, "qlora": True}, content_type="application/json").json()
    assert (again["state"], again["recipe"]["micro"], again["recipe"]["quantized"]) == ("queued", 1, True)
    assert staff.post(f"/api/training/runs/{number}/cancel").json()["state"] == "cancelled"
    assert staff.post(url, content_type="application/json").json()["state"] == "queued"


def test_the_api_starts_a_distillation(staff, run):
    answer = staff.post(
        "/api/training/distillations", {"model": "m", "limit": 1, "backend": "local"}, content_type="application/json"
    )
    assert answer.status_code == 202, answer.json()
    assert staff.get(f"/api/training/distillations/{answer.json()['run']}").json()["model"] == "m"


@pytest.mark.parametrize(
    ("body", "status"), [({"steps": 0}, 400), ({"steps": "3"}, 400), ({"dataset": 99}, 404), ({"colour": "red"}, 400)]
)
def test_the_api_refuses_what_can_t_be(staff, run, body, status):
    assert staff.post("/api/training/runs", body, content_type="application/json").status_code == status


def test_training_is_for_operators(client, run):
    client.logout()
    client.force_login(get_user_model().objects.create_user("asker", password="x" * 12))
    for url in ("/api/training/runs", "/api/training/distillations", "/api/training/datasets"):
        assert client.get(url).status_code == 403
    assert client.get("/api/training/runs/1").status_code == 403


@pytest.fixture
def quantization(staff):
    """A build beside one that it beats, and one that is larger and better."""
    made = []
    for name, mode, size, speed, overlap in (("small", "cpu8", 130, 40.0, 0.8), ("worse", "nf4", 220, 17.0, 0.7),
                                             ("good", "bf16", 270, 22.0, 0.99)):  # fmt: skip
        artifact = ModelArtifact.objects.create(name=name, kind="quantized", base_model="smollm2", path=name, sha256="0")
        figures = {"weights_bytes": size * 10**6, "decode_tokens_per_second": speed, "decode_8_tokens_per_second": 90.0,
                   "threads": 1, "latency_ms": {"p50": 900.0, "p95": 1000.0}}  # fmt: skip
        made.append(
            QuantizationReport.objects.create(
                base_model="smollm2", mode=mode, artifact=artifact, figures=figures,
                unquantized=figures | {"weights_bytes": 538 * 10**6},
                fidelity={"answers": 20, "answers_equal": 9, "answers_overlap": overlap, "agreement": 0.8, "perplexity": 60.0,
                          "perplexity_rise": 0.04},
            )
        )  # fmt: skip
    return made[0]


def test_the_pareto_front_leaves_out_what_another_build_beats(quantization):
    assert {report.mode for report in pareto(builds())} == {"cpu8", "bf16"}


def test_the_pages_of_quantizations_show_the_scatter_the_figures_and_the_choice(staff, quantization):
    listing = reverse("admin:training_quantizationreport_changelist")
    assert 'data-chart="builds"' in staff.get(listing).content.decode()
    page = reverse("admin:training_quantizationreport_change", args=[quantization.pk])
    shown = staff.get(page).content.decode()
    assert "Memory of weights, MB" in shown and "0.24" in shown and "9 of 20 answers are the same" in shown
    choose = reverse("admin:training_quantizationreport_choose", args=[quantization.pk])
    assert "This field is required" in staff.post(choose, {"reason": ""}).content.decode()
    staff.post(choose, {"reason": "small <b>enough</b>"})
    assert "small &lt;b&gt;enough&lt;/b&gt;" in staff.get(page).content.decode()
    assert "was chosen by root" in staff.get(listing).content.decode()


def test_the_button_and_the_api_start_a_quantization(staff):
    start = f"{reverse('admin:training_quantizationreport_changelist')}start/"
    assert staff.get(start).status_code == 200
    staff.post(start, {"mode": "nf4", "model": "", "adapter": "", "agent": "quantized_rag"})
    report = QuantizationReport.objects.get()
    assert (report.mode, report.job.kind, report.created_by.username) == ("nf4", "training.quantization", "root")
    answer = staff.post("/api/training/quantizations", {"mode": "q9"}, content_type="application/json")
    assert answer.status_code == 400
    answer = staff.post("/api/training/quantizations", {"register": False}, content_type="application/json")
    assert answer.status_code == 202 and answer.json()["mode"] == "cpu8" and answer.json()["agent"] == ""
    assert staff.get("/api/training/quantizations").json()["count"] == 2
    number = answer.json()["run"]
    assert staff.post(f"/api/training/quantizations/{number}/cancel").json()["state"] == "cancelled"
