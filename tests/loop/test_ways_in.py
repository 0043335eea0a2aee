"""The same run from the admin's button, the API and the schedule."""

import pytest
from django.urls import reverse
from django_q.models import Schedule

from adaptrag.api.services import key_create
from adaptrag.loop import stages, tasks
from adaptrag.loop.models import LoopRun
from tests.api.conftest import Api
from tests.loop.conftest import log
from tests.loop.test_improve import trained_at_once


@pytest.fixture
def quick(site, incumbent, student, monkeypatch):
    monkeypatch.setattr(stages, "training_execute", trained_at_once)
    site.ADAPTRAG_IMPROVE_MODEL = str(student)
    log(incumbent)
    return site


@pytest.fixture
def operator(db, django_user_model):
    return django_user_model.objects.create_superuser("olga", password="pw")


@pytest.fixture
def api(operator):
    return Api(key_create(user=operator, name="runs", scope="operator")[1])


def test_the_api_starts_lists_and_shows_a_run(quick, api, operator):
    plan = api.send("/api/improve", {"dry_run": True})
    assert (plan.status_code, plan.json()["new"]) == (200, 60)
    assert not LoopRun.objects.exists()
    started = api.send("/api/improve", {"steps": 1, "top_k": 1})
    assert started.status_code == 202, started.content
    run = LoopRun.objects.get()
    assert (run.trigger, run.created_by, run.options["steps"]) == ("api", operator, 1)
    shown = api.get(f"/api/improve/{run.pk}").json()
    assert (shown["verdict"], shown["candidate"], len(shown["stages"])) == ("rejected", "lora_rag r1", 7)
    assert [one["run"] for one in api.get("/api/improve").json()["results"]] == [run.pk]
    assert api.send(f"/api/improve/{run.pk}/resume", {}).status_code == 409
    assert api.send(f"/api/improve/{run.pk}/cancel", {}).status_code == 409
    assert api.get("/api/improve/99").json()["error"]["code"] == "unknown_improvement"
    assert api.send("/api/improve", {"steps": 0}).status_code == 400


def test_only_operators_may(quick, django_user_model):
    user = django_user_model.objects.create_user("ada", password="pw")
    asks = Api(key_create(user=user, name="asks", scope="query")[1])
    assert asks.send("/api/improve", {}).status_code == 403
    assert asks.get("/api/improve").status_code == 403


def test_the_admins_button_says_what_it_would_do_and_does_it(quick, client, operator):
    client.force_login(operator)
    button = reverse("admin:loop_looprun_improve")
    page = client.get(button).content.decode()
    assert "60 corrected" in page and not LoopRun.objects.exists()
    response = client.post(button, {"confirmed": "yes"}, follow=True)
    run = LoopRun.objects.get()
    text = response.content.decode()
    assert (run.trigger, run.created_by) == ("admin", operator)
    assert run.reason[:40] in text and "eval run" in text and "decision" in text
    assert client.get(reverse("admin:loop_looprun_changelist")).status_code == 200
    assert client.get(reverse("admin:loop_looprun_status", args=[run.pk])).status_code == 200


def test_the_admin_refuses_the_button_with_the_reason_where_little_is_new(quick, client, operator):
    quick.ADAPTRAG_IMPROVE_MIN_NEW = 1000
    client.force_login(operator)
    page = client.post(reverse("admin:loop_looprun_improve"), {"confirmed": "yes"}).content.decode()
    assert "1000 are needed" in page and not LoopRun.objects.exists()


def test_a_failed_run_is_resumed_from_its_page(quick, client, operator, monkeypatch):
    client.force_login(operator)

    def broken(number, context):
        raise RuntimeError("no room on the disk")

    monkeypatch.setattr(stages, "training_execute", broken)
    client.post(reverse("admin:loop_looprun_improve"), {"confirmed": "yes"})
    run = LoopRun.objects.get()
    page = client.get(reverse("admin:loop_looprun_change", args=[run.pk])).content.decode()
    assert "no room on the disk" in page
    monkeypatch.setattr(stages, "training_execute", trained_at_once)
    client.post(reverse("admin:loop_looprun_resume", args=[run.pk]), {"confirmed": "yes"})
    run.refresh_from_db()
    assert run.verdict == "rejected"


def test_the_schedule_is_off_until_the_setting_says_how_often_and_then_starts_runs(quick):
    tasks.schedule_ensure()
    assert not Schedule.objects.filter(name=tasks.SCHEDULE).exists()
    for setting, kind in (("daily", "D"), ("weekly", "W")):
        quick.ADAPTRAG_IMPROVE_SCHEDULE = setting
        tasks.schedule_ensure()
        assert Schedule.objects.get(name=tasks.SCHEDULE).schedule_type == kind
    assert Schedule.objects.get(name=tasks.SCHEDULE).func == "adaptrag.loop.tasks.scheduled"
    assert tasks.scheduled() == str(LoopRun.objects.get())
    assert LoopRun.objects.get().trigger == "schedule"
    LoopRun.objects.update(state="running", verdict="")
    LoopRun.objects.get().stages.filter(name="register").update(state="running")
    assert "is under way" in tasks.scheduled()
    quick.ADAPTRAG_IMPROVE_SCHEDULE = ""
    tasks.schedule_ensure()
    assert not Schedule.objects.filter(name=tasks.SCHEDULE).exists()
