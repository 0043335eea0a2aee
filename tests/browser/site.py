"""What the browser's site serves; run in a process of its own, on the server's data folder."""

import json
import random

HANDBOOK = """# Harbour

The lighthouse keeper is Marta Olsen. She has kept the light since 1998.

# Ferries

Ferries leave at six in the morning and at noon.
"""
HOSTILE = (
    """# <script>window.pwned = "heading"</script>

Piracy <img src=x onerror="window.pwned = 'document'"> is told as <script>window.pwned = "text"</script> here.

"""
    + "Seeräuberverschwörungsgeschichtenerzählerin" * 12
)


RATED = 300  # answers of each of two agents, in a category of their own: enough for findings and for an estimate


def rated_log():
    """Lines of a log in which dawn is right more often than dusk, each drawn with one chance in two."""
    dice = random.Random(7)
    for number in range(2 * RATED):
        agent = ("dawn", "dusk")[dice.random() < 0.5]
        identifier = f"seeded-{number}"
        candidates = [{"agent": name, "revision": 1, "probability": 0.5, "pulls": 0, "mean": None} for name in ("dawn", "dusk")]
        yield json.dumps(
            {
                **{"interaction_id": identifier, "question": f"How does light {number} differ?", "answer": "By its colour."},
                **{"agent": agent, "category": "relational", "mode": "bandit", "policy": "even", "policy_revision": 1},
                **{"propensity": 0.5, "candidates": candidates, "seed": number, "latency_ms": 900},
                **{"sources": [{"chunk_id": 1, "document": "harbour.md", "text": "A light.", "used": True}]},
            }
        )
        yield json.dumps({"interaction_id": identifier, "reward": float(dice.random() < {"dawn": 0.85, "dusk": 0.35}[agent])})


def prepare():
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    from agents.services import agent_register, collection_get_or_create, document_add
    from rewards.services import log_import

    def scripted(name, state="active", **options):
        agent_register(
            name=name,
            strategy="naive_rag",
            chat_backend="scripted",
            chat_options=options,
            parameters={"retriever": "bm25"},
            state=state,
        )

    call_command("migrate", interactive=False, verbosity=0)
    users = get_user_model().objects
    users.create_superuser("olga", password="pw")
    users.create_user("rita", password="pw")
    document_add(collection=collection_get_or_create("default"), name="harbour.md", data=HANDBOOK.encode())
    document_add(collection=collection_get_or_create("pirates"), name="pirates.md", data=HOSTILE.encode())
    words = "The keeper of the **lighthouse** is Marta Olsen [1], who has kept it since 1998."
    scripted("brisk", answer=words, chunk_delay=0.03)
    scripted("calm", answer=words, delay=0.3, chunk_delay=0.1)
    scripted("fresh", answer=words)
    scripted("slow", answer=words, chunk_delay=1)
    scripted("wordy", answer=f"{words} " + "lighthouse" * 3_200)
    scripted("hostile", answer="<script>window.pwned='answer'</script> **<img src=x onerror=window.pwned='bold'>** [1]")
    scripted("broken", fail="unavailable")
    spare = {"backend": "scripted", "model": "spare", "options": {"answer": "From the spare model."}}
    scripted("wobbly", fail="unavailable", fallback=spare)
    scripted("rookie", state="candidate", answer=words)
    scripted("dawn", answer=words)
    scripted("dusk", answer=words)
    log_import(rated_log(), on_error="stop")
