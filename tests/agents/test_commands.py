"""What commands that put questions to agents do where there is none yet."""

import pytest
from django.core.management import CommandError, call_command

from agents.models import AgentVariant
from agents.services import agent_register, agent_set_enabled, collection_get_or_create, document_add
from agents.services.agents import DEFAULT_AGENTS

pytestmark = pytest.mark.django_db


def test_the_first_question_registers_the_default_agents_and_says_so(capsys):
    with pytest.raises((SystemExit, CommandError)):  # nothing is ingested
        call_command("ask", "Who keeps the lighthouse?")
    assert list(AgentVariant.objects.order_by("pk").values_list("name", flat=True)) == list(DEFAULT_AGENTS)
    told = capsys.readouterr().err
    assert "No agent was registered yet" in told and all(name in told for name in DEFAULT_AGENTS)
    with pytest.raises((SystemExit, CommandError)):
        call_command("ask", "Who keeps the lighthouse?")
    assert "registered yet" not in capsys.readouterr().err


def test_an_agent_that_was_switched_off_stays_the_only_one(capsys):
    document_add(collection=collection_get_or_create("default"), name="notes.md", data=b"The keeper is Marta.", index=False)
    agent_set_enabled(agent_register(name="mine", strategy="naive_rag"), False)
    with pytest.raises((SystemExit, CommandError)):
        call_command("ask", "Who keeps the lighthouse?")
    assert AgentVariant.objects.get().name == "mine"
    assert "No agent is switched on" in capsys.readouterr().err
