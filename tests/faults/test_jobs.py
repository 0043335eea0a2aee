"""Jobs on a real cluster: whatever dies, is stuck or comes twice, one row tells what happened and no work is done twice."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.queue_site import PATIENCE, children, is_alive, until

pytestmark = pytest.mark.slow


def steps_of(trace):
    return [event for event, _ in trace if event.startswith("step:")]


def test_a_message_delivered_three_times_runs_the_job_once(queue):
    number = queue.enqueue("light", steps=2, pause=0.2)
    for _ in range(2):
        queue.ask(f"job_send({number}, handler_for('light'))")
    job = queue.until_ended(number)
    behind = queue.enqueue("light", steps=1)  # taken after the copies
    queue.until_ended(behind)

    assert (job["state"], job["result"], job["progress"], job["attempt"]) == ("succeeded", {"steps": 2}, 1.0, 1)
    assert job["seconds"] >= 0.4
    assert [event for event, _ in queue.trace(number)] == ["start:0", "step:0", "step:1"]


def test_a_heavy_job_outlives_the_time_limit_of_light_ones_in_a_process_of_its_own(queue):
    light = queue.enqueue("light_short", steps=1, pause=30)
    heavy = queue.enqueue("heavy", steps=4, pause=0.6)
    seen = []
    job = queue.until(heavy, lambda job: seen.append(job["progress"]) or job["state"] == "succeeded", "succeeded")
    failed = queue.until_ended(light)

    assert job["seconds"] > 2
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(set(seen)) > 2
    assert failed["state"] == "failed" and "longer than 1 s, its time limit" in failed["error"]
    workers = {job["worker"].split(":")[1].split("@")[0] for job in (job, failed)}
    assert str(queue.trace(heavy)[0][1]) not in workers  # the child ran it
    assert str(queue.trace(light)[0][1]) in workers  # the worker itself ran it


def test_a_killed_child_leaves_one_failed_row_that_says_so_and_a_retry_goes_on(queue):
    number, gate = queue.enqueue_held("heavy")
    queue.until_stepped(number)
    os.kill(queue.trace(number)[0][1], signal.SIGKILL)
    job = queue.until_ended(number)
    gate.touch()

    assert (job["state"], job["attempt"]) == ("failed", 1)
    assert "killed (signal 9, SIGKILL)" in job["error"] and "MiB of memory" in job["error"]
    assert queue.ask(f"job_retry(Job.objects.get(pk={number})).state") == "queued"
    job = queue.until_ended(number)
    assert (job["state"], job["attempt"], job["error"]) == ("succeeded", 2, "")
    assert steps_of(queue.trace(number)) == [f"step:{step}" for step in range(4)]


def test_cancelling_stops_running_jobs_even_one_that_takes_no_notice(queue):
    deaf = queue.enqueue("deaf")
    light, _ = queue.enqueue_held("light")
    waiting, _ = queue.enqueue_held("heavy")  # both workers are busy
    queue.until(deaf, lambda job: queue.trace(deaf), "started")
    queue.until_stepped(light)
    for number in (waiting, deaf, light):
        queue.ask(f"job_cancel(Job.objects.get(pk={number})).state")

    jobs = [queue.until_ended(number) for number in (deaf, light, waiting)]
    assert [job["state"] for job in jobs] == ["cancelled"] * 3
    assert [job["attempt"] for job in jobs] == [1, 1, 0]
    assert not is_alive(queue.trace(deaf)[0][1])
    assert jobs[1]["checkpoint"] == {"done": 1}  # what was done stays


def test_a_heavy_job_hears_of_the_cancel_from_its_next_report_or_a_signal(queue):
    number, _ = queue.enqueue_held("heavy")
    queue.until_stepped(number)
    queue.ask(f"job_cancel(Job.objects.get(pk={number})).state")
    job = queue.until_ended(number)
    assert (job["state"], job["checkpoint"], job["error"]) == ("cancelled", {"done": 1}, "")


def test_what_a_child_dies_of_stands_on_the_row(queue):
    crashed, refused, late = queue.enqueue("segfault"), queue.enqueue("refuse"), queue.enqueue("heavy_short", steps=1, pause=60)
    job = queue.until_ended(crashed)
    assert job["state"] == "failed" and "signal 11, SIGSEGV" in job["error"]
    assert "string_at" in job["traceback"]
    job = queue.until_ended(refused)
    assert (job["state"], job["traceback"]) == ("failed", "")
    assert job["error"] == "The file 'x.pdf' is encrypted. Upload it without a password."
    job = queue.until_ended(late)
    assert job["state"] == "failed" and "longer than 5 s" in job["error"]


def test_a_superseded_attempt_writes_nothing_more(queue):
    number = queue.enqueue("usurped")
    queue.until(number, lambda job: job["attempt"] == 2, "taken over")
    queue.until(number, lambda job: queue.trace(number), "through")

    job = queue.job(number)
    assert (job["state"], job["checkpoint"], job["result"]) == ("running", None, None)
    assert queue.trace(number)[0][0] == "refused:JobSuperseded"
    queue.ask(f"Job.objects.filter(pk={number}).update(state='cancelled')")


def test_a_job_that_kills_its_workers_is_failed_when_its_attempts_are_used_up(queue):
    number = queue.enqueue("suicide")
    job = queue.until_ended(number)

    assert (job["state"], job["attempt"]) == ("failed", 2)
    assert "stopped without a word 2 times" in job["error"]
    assert queue.until_ended(queue.enqueue("light", steps=1))["state"] == "succeeded"


def test_a_cluster_whose_idle_workers_are_all_killed_takes_jobs_again(queue):
    queue.until_ended(queue.enqueue("light", steps=1))
    until(lambda: len(queue.workers()) == 2, "complete")
    for worker in queue.workers():
        os.kill(worker, signal.SIGKILL)
    assert queue.until_ended(queue.enqueue("light", steps=1))["state"] == "succeeded"


def test_a_job_without_a_message_is_sent_again(queue):
    old = "queued_at=timezone.now() - timedelta(hours=1)"
    payload = {"steps": 1, "trace": str(queue.folder / "trace-resent")}
    number = queue.ask(f"Job.objects.create(kind='light', payload={payload!r}).pk")
    assert queue.ask("jobs_reap().resent") == 0  # its message may be on the way
    queue.ask(f"Job.objects.filter(pk={number}).update({old})")
    assert queue.ask("jobs_reap().resent") == 1
    assert queue.until_ended(number)["state"] == "succeeded"


def test_a_job_can_be_run_by_hand(queue):
    payload = {"steps": 2, "trace": str(queue.folder / "trace-hand")}
    number = queue.ask(f"Job.objects.create(kind='heavy', payload={payload!r}).pk")
    shown = queue.must("run_job", str(number))
    assert (shown["state"], shown["result"]) == ("succeeded", {"steps": 2})
    assert len(steps_of(queue.trace(number))) == 2


def test_a_cluster_that_is_told_twice_stops_at_once(queue_site):
    cluster = queue_site.start_cluster()
    number, _ = queue_site.enqueue_held("light")
    queue_site.until_stepped(number)
    family = children(cluster.pid)
    log = queue_site.folder / "cluster-default.log"
    cluster.send_signal(signal.SIGINT)
    until(lambda: "Ctrl-C again stops now" in log.read_text(), "the first was heard")
    assert is_alive(cluster.pid)
    cluster.send_signal(signal.SIGINT)
    assert cluster.wait(PATIENCE) == 130
    until(lambda: not any(is_alive(pid) for pid in family), "everything stopped")
    assert queue_site.job(number)["state"] == "running"
    assert queue_site.ask("jobs_reap().requeued") == 1


def test_jobs_of_a_killed_cluster_go_on_after_its_restart(queue_site):
    _kill_and_restart(queue_site, kinds=["heavy", "light"])


@pytest.mark.postgres
def test_jobs_of_a_killed_cluster_go_on_after_its_restart_on_postgresql(postgres_queue_site):
    _kill_and_restart(postgres_queue_site, kinds=["light", "light"])


def _kill_and_restart(site, kinds):
    contested = site.ask("Job.objects.create(kind='light').pk")
    assert site.ask(f"claims_won({contested}, 12)") == 1

    cluster = site.start_cluster()
    held = [site.enqueue_held(kind) for kind in kinds]  # as many as there are workers
    waiting = site.enqueue("light", steps=1)  # sits in the cluster's memory, its message locked
    for number, _ in held:
        site.until_stepped(number)
    family = children(cluster.pid)
    assert {site.trace(number)[0][1] for number, _ in held} < set(family)
    cluster.kill()
    cluster.wait()
    until(lambda: not any(is_alive(pid) for pid in family), "dead with the first process")
    assert {site.job(number)["state"] for number, _ in held} == {"running"}

    for _, gate in held:
        gate.touch()
    site.ask(f"Job.objects.filter(pk={waiting}).update(queued_at=timezone.now() - timedelta(hours=1))")
    site.start_cluster()
    for number, _ in held:
        job = site.until_ended(number)
        assert (job["state"], job["attempt"]) == ("succeeded", 2)
        assert "stopped without a word" in job["log"]
        assert steps_of(site.trace(number)) == [f"step:{step}" for step in range(4)]
    assert site.until_ended(waiting)["state"] == "succeeded"
