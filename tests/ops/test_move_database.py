"""Moving a site from SQLite to PostgreSQL with the commands of docs/operations.md."""

from __future__ import annotations

import re
import subprocess
import sys

import psycopg
import pytest

from tests.ops.site import ROOT
from tests.postgres import postgres_server

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

FILL = """
from django.contrib.auth import get_user_model
from django.utils import timezone
from adaptrag.api.services import key_create
from agents.services import agent_register, agent_revise, collection_get_or_create
from rewards.services import feedback_record, interaction_log
user = get_user_model().objects.create_superuser("operator")
key_create(user=user, name="k", scope="operator", collections=[collection_get_or_create("default")])
agent = agent_register(name="quick", strategy="naive_rag", chat_backend="scripted", chat_options={"answer": "yes"}, user=user)
agent = agent_revise(agent, parameters={"max_tokens": 10}, user=user)
for number in range(5):
    asked = interaction_log(question=f"q{number}", category="factual", variant=agent, created_at=timezone.now(), answer="a")
    feedback_record(interaction_id=asked.pk, reward=number / 4, rater="anna")
"""
COUNTS = """
SELECT (SELECT count(*) FROM rewards_reward), (SELECT sum(total) FROM rewards_banditarm), (SELECT count(*) FROM api_apikey)
"""


def test_every_row_arrives_with_its_relations(site, tmp_path):
    assert site.start(FILL).wait() == 0
    section = (ROOT / "docs" / "operations.md").read_text().split("## Moving to PostgreSQL")[1]
    script = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1]
    with postgres_server() as server:
        address = server.create_database("moved")
        script = script.replace("site.json.gz", str(tmp_path / "site.json.gz"))
        script = re.sub(r"DATABASE_URL=\S+", f"DATABASE_URL={address}", script)
        script = script.replace(".venv/bin/python", sys.executable)
        done = subprocess.run(
            ["bash", "-euc", script], env=site.environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        with psycopg.connect(address) as connection:
            moved = connection.execute(COUNTS).fetchone()
            connection.execute(
                "INSERT INTO agents_collection (name, description, language, top_k, content_version, created_at) "
                "VALUES ('next', '', 'english', 5, 0, now())"
            )  # the sequences go on behind the moved rows
    assert moved == (5, 2.5, 1) == site.rows(COUNTS)[0]
