from __future__ import annotations

import pytest

from adaptrag.common.checks import check_queue
from adaptrag.common.jobs import register
from adaptrag.common.registry import HANDLERS


def test_the_shipped_settings_pass():
    assert check_queue() == []


def test_a_handler_on_a_queue_that_no_cluster_serves_is_named():
    register("tested", lambda context: None, queue="lnog")
    try:
        (problem,) = check_queue()
    finally:
        HANDLERS.pop("tested")
    assert problem.id == "common.E001" and "'lnog'" in problem.msg and "default, long" in problem.hint


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("ADAPTRAG_JOBS_LOST_AFTER", 10, "common.E003"),
        ("ADAPTRAG_JOBS_KEEP_DAYS", -1, "common.E004"),
        ("ADAPTRAG_JOBS_LIGHT_LIMIT", 0, "common.E004"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings, name, value, code):
    setattr(settings, name, value)
    assert [problem.id for problem in check_queue()] == [code]


def test_redelivery_before_the_time_limit_is_named(settings):
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "retry": 60}
    assert [problem.id for problem in check_queue()] == ["common.E002"]
