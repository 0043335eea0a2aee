from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from adaptrag.common import jobs
from adaptrag.common.lease import claim
from adaptrag.common.models import Job
from adaptrag.common.registry import HANDLERS

pytestmark = pytest.mark.django_db
LIST = reverse("admin:common_job_changelist")


@pytest.fixture(autouse=True)
def kind():
    jobs.register("tested", lambda context: None)
    yield
    HANDLERS.pop("tested")


@pytest.fixture
def running() -> Job:
    job = Job.objects.create(kind="tested", title="Index <b>docs</b>")
    claim(job.pk)
    Job.objects.filter(pk=job.pk).update(progress=0.42, message="page <3>", log="line <1>\n")
    job.refresh_from_db()
    return job


def url(name: str, job: Job) -> str:
    return reverse(f"admin:common_job_{name}", args=[job.pk])


def test_the_list_shows_state_progress_and_heartbeat_and_asks_for_what_is_live(admin_client, running):
    Job.objects.create(kind="tested", state="failed", error="The file is <encrypted>.")
    page = admin_client.get(LIST).content.decode()
    assert '<progress max="100" value="42"' in page and re.search(r"heartbeat \d+ s ago", page)
    assert f"live/?ids={running.pk}&quot;" in page or f'live/?ids={running.pk}"' in page
    assert "Index &lt;b&gt;docs" in page and "page &lt;3&gt;" in page and "&lt;encrypted&gt;" in page
    assert "<b>docs" not in page and "<encrypted>" not in page


def test_the_cells_of_a_list_are_renewed_until_nothing_is_live(admin_client, running):
    live = reverse("admin:common_job_live") + f"?ids={running.pk},x,"
    page = admin_client.get(live).content.decode()
    assert f'id="job-{running.pk}-live" hx-swap-oob="true"' in page and f"?ids={running.pk}" in page
    Job.objects.update(state="succeeded", progress=1)
    page = admin_client.get(live).content.decode()
    assert 'value="100"' in page and "job-poller" not in page


def test_a_page_shows_log_error_and_traceback_and_asks_no_more_once_ended(admin_client, running):
    page = admin_client.get(url("change", running)).content.decode()
    assert "line &lt;1&gt;" in page and 'hx-trigger="every 2s"' in page
    Job.objects.update(state="failed", error="It broke.", traceback="Traceback <here>")
    page = admin_client.get(url("change", running)).content.decode()
    assert "It broke." in page and "Traceback &lt;here&gt;" in page and 'hx-trigger="every 2s"' not in page


def test_a_page_names_the_queue_whose_workers_take_the_job(admin_client, running):
    jobs.register("tested", lambda context: None, queue="long")
    page = admin_client.get(url("change", running)).content.decode()
    assert re.search(r"Queue.{0,400}?\blong\b", page, re.S)


def test_the_log_is_sent_again_only_when_it_has_grown(admin_client, running):
    page = admin_client.get(url("change", running)).content.decode()
    ask = re.search(r'hx-get="([^"]*status/\?seen=\d+)"', page)[1]
    assert "job-log" not in admin_client.get(ask).content.decode()
    Job.objects.update(log="line <1>\nline <2>\n")
    page = admin_client.get(ask).content.decode()
    assert 'id="job-log"' in page and "line &lt;2&gt;" in page and ask not in page


def test_cancel_and_retry_ask_first(admin_client, running):
    assert "stops within seconds" in admin_client.get(url("cancel", running)).content.decode()
    running.refresh_from_db()
    assert not running.cancel_requested
    answer = admin_client.post(url("cancel", running), {"confirmed": "yes"}, follow=True)
    assert "stops within seconds" in answer.content.decode()
    running.refresh_from_db()
    assert running.cancel_requested

    Job.objects.update(state="cancelled")
    answer = admin_client.post(url("retry", running), {"confirmed": "yes"}, follow=True)
    running.refresh_from_db()
    assert running.state == "queued" and "queued again by admin" in running.log
    assert "is queued" in answer.content.decode()


def test_a_button_that_does_nothing_now_says_why(admin_client, running):
    page = admin_client.get(url("change", running)).content.decode()
    assert "only a job that is failed or cancelled can be retried" in page
    page = admin_client.post(url("retry", running), {"confirmed": "yes"}).content.decode()
    assert "only a job that is failed or cancelled can be retried" in page
    running.refresh_from_db()
    assert running.state == "running"


def test_several_jobs_are_cancelled_at_once_after_a_question(admin_client):
    queued = [Job.objects.create(kind="tested") for _ in range(2)]
    done = Job.objects.create(kind="tested", state="succeeded")
    data = {"action": "cancel_selected", "_selected_action": [job.pk for job in (*queued, done)]}
    assert "Cancel 2 jobs?" in admin_client.post(LIST, data).content.decode()
    assert Job.objects.filter(state="queued").count() == 2
    admin_client.post(LIST, {**data, "confirmed": "yes"})
    assert sorted(Job.objects.values_list("state", flat=True)) == ["cancelled", "cancelled", "succeeded"]
    answer = admin_client.post(LIST, {**data, "confirmed": "yes"}, follow=True).content.decode()
    assert "None of the selected jobs is queued or running" in answer


def test_who_may_only_look_can_neither_cancel_nor_edit(client, django_user_model, running):
    viewer = django_user_model.objects.create_user("vera", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_job"))
    client.force_login(viewer)
    assert "takes the permission to change jobs" in client.get(url("change", running)).content.decode()
    client.post(url("cancel", running), {"confirmed": "yes"})
    client.post(LIST, {"action": "cancel_selected", "_selected_action": [running.pk], "confirmed": "yes"})
    running.refresh_from_db()
    assert not running.cancel_requested
    client.force_login(django_user_model.objects.create_user("nobody", is_staff=True))
    for name in ("change", "cancel", "status"):
        assert client.get(url(name, running)).status_code == 403
    assert client.get(reverse("admin:common_job_live")).status_code == 403


def test_the_database_row_of_a_job_cannot_be_edited_or_deleted_by_anybody(admin_client, running):
    assert admin_client.get(reverse("admin:common_job_delete", args=[running.pk])).status_code == 403
    assert admin_client.get(reverse("admin:common_job_add")).status_code == 403
    assert admin_client.post(url("change", running), {"kind": "other"}).status_code == 403


def test_a_queue_without_workers_is_named_on_both_pages(admin_client):
    job = Job.objects.create(kind="tested", queued_at=timezone.now() - timedelta(minutes=5))
    for page in (LIST, url("change", job)):
        assert "<code>python manage.py qcluster</code>" in admin_client.get(page).content.decode()


def test_a_long_list_takes_a_fixed_number_of_queries(admin_client, django_assert_max_num_queries):
    Job.objects.bulk_create(Job(kind="tested", title=f"job {number}") for number in range(60))
    with django_assert_max_num_queries(12):
        admin_client.get(LIST)
