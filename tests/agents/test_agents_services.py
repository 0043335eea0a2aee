"""Registering and revising agents."""

import pytest

from adaptrag.common.errors import Conflict, InvalidInput
from agents.errors import ImmutableVariant
from agents.models import AgentVariant
from agents.selectors import live_variants
from agents.services import agent_register, agent_revise, agent_set_enabled, agents_register_defaults
from agents.services.agents import DEFAULT_AGENTS

pytestmark = pytest.mark.django_db


def test_the_default_agents_are_registered_once():
    assert [variant.name for variant in agents_register_defaults()] == list(DEFAULT_AGENTS)
    assert agents_register_defaults() == []
    assert AgentVariant.objects.count() == len(DEFAULT_AGENTS)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "Has Spaces"}, "name: "),
        ({"strategy": "psychic_rag"}, "'psychic_rag'; there are agentic_rag"),
        ({"parameters": {"prompt_passages": 99}}, "'prompt_passages' must lie between 1 and 50"),
        ({"parameters": ["x"]}, "JSON object"),
        ({"chat_backend": "carrier_pigeon"}, "carrier_pigeon"),
        ({"chat_options": {"no_such_option": 1}}, "no_such_option"),
        ({"inherit": 1.5}, "inherit"),
    ],
)
def test_a_wrong_configuration_is_named_and_nothing_is_saved(values, words):
    with pytest.raises(InvalidInput, match=words):
        agent_register(**{"name": "one", "strategy": "naive_rag"} | values)
    assert not AgentVariant.objects.exists()


def test_a_taken_name_is_refused():
    agent_register(name="one", strategy="naive_rag")
    with pytest.raises(Conflict, match="'one' already"):
        agent_register(name="one", strategy="hybrid_rag")


def test_what_a_variant_does_can_not_be_altered_in_place():
    variant = agent_register(name="one", strategy="naive_rag")
    variant.parameters = {"prompt_passages": 5}
    with pytest.raises(ImmutableVariant, match="parameters"):
        variant.save()
    variant.refresh_from_db()
    assert variant.parameters == {}


def test_state_and_switch_can_be_altered_and_leave_history(django_user_model):
    user = django_user_model.objects.create_user("ola")
    variant = agent_register(name="one", strategy="naive_rag")
    agent_set_enabled(variant, False, user=user)
    assert live_variants() == []
    entry = variant.history.first()
    assert (entry.enabled, entry.history_user) == (False, user)


def test_a_candidate_revision_leaves_the_active_one_in_place():
    first = agent_register(name="one", strategy="naive_rag")
    candidate = agent_revise(first, parameters={"prompt_passages": 5}, state="candidate")
    assert candidate.revision == 2
    assert live_variants() == [first]


def test_a_revision_of_a_revision_counts_on():
    first = agent_register(name="one", strategy="naive_rag")
    agent_revise(first, parameters={"prompt_passages": 4})
    third = agent_revise(first, parameters={"prompt_passages": 5})
    assert (third.revision, third.predecessor) == (3, first)
    assert live_variants() == [third]


def test_a_revision_can_not_change_a_name():
    first = agent_register(name="one", strategy="naive_rag")
    with pytest.raises(InvalidInput, match="'name'"):
        agent_revise(first, name="two")
