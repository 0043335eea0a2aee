from adaptrag.settings import *  # noqa: F403
from adaptrag.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.faults.queue_app.apps.QueueAppConfig"]

ADAPTRAG_JOBS_HEARTBEAT = 1.0
ADAPTRAG_JOBS_GRACE = 1.0
