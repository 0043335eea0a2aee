"""What the tests' own server serves; run in a process of its own, on the server's data folder."""

import json


def prepare():
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from adaptrag.api.services import key_create
    from agents.classifier import CATEGORIES
    from agents.services import collection_get_or_create, document_add
    from rewards.models import RoutingPolicy
    from rewards.services import prior_set
    from tests.api.conftest import TEXT, scripted

    call_command("migrate", interactive=False, verbosity=0)
    document_add(collection=collection_get_or_create("default"), name="harbour.md", data=TEXT)
    scripted("quick")
    scripted("slow", answer="one two three four five six seven eight nine ten", chunk_delay=0.2)
    scripted("down", fail="unavailable")
    for category in CATEGORIES:  # questions that name no agent go to the quick one
        prior_set(category=category, agent_name="quick", pulls=1000, total=1000)
        for name in ("slow", "down"):
            prior_set(category=category, agent_name=name, pulls=1000, total=0)
    RoutingPolicy.objects.create(name="quick only", min_share=0, active=True)
    user = get_user_model().objects.create_user("ada")
    operator = get_user_model().objects.create_user("olga", is_staff=True)
    keys = {
        "key": key_create(user=user, name="asks", scope="query")[1],
        "operator_key": key_create(user=operator, name="runs", scope="operator")[1],
    }
    print(json.dumps(keys))
