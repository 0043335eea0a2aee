"""A site for processes of their own; run in one, on its data folder."""


def prepare():
    import django

    django.setup()
    from django.core.management import call_command

    from agents.services import collection_get_or_create, document_add
    from tests.loop.conftest import TEXT, incumbent_registered, log

    call_command("migrate", interactive=False, verbosity=0)
    document_add(collection=collection_get_or_create("default"), name="towns.md", data=TEXT.encode())
    log(incumbent_registered(price_prompt_per_million=1000, delay=0.4))
