"""The chat page over plain HTTP: what a browser without JavaScript does, and the fragments that chat.js fetches."""

import re
import uuid

import pytest
from django.test import Client
from django.urls import reverse

from adaptrag.orchestrator import MESSAGES_CHARS_MAX, QueryRequest, query
from agents.models import Chunk
from agents.services import agent_set_enabled, document_delete
from rewards.models import Interaction, Reward

from .conftest import scripted

pytestmark = pytest.mark.django_db
UNKNOWN = uuid.UUID(int=7)
QUESTION = "Who is the lighthouse keeper?"


def ask(client, question=QUESTION, **fields):
    url = reverse("conversation", args=[fields.pop("conversation", uuid.uuid4())])
    return client.post(url, {"question": question, **fields}, follow=True)


@pytest.mark.parametrize("path", ["/", f"/c/{UNKNOWN}/", "/sources/1/", f"/answers/{UNKNOWN}/"])
def test_visitors_are_sent_to_the_login_page(client, path):
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"].startswith(reverse("login"))


def test_people_sign_in_and_out_by_form(client, reader):
    assert client.post(reverse("login"), {"username": "rita", "password": "wrong"}).status_code == 200
    assert client.post(reverse("login"), {"username": "rita", "password": "pw"})["Location"] == "/"
    assert client.get(reverse("chat")).status_code == 200
    assert client.get(reverse("logout")).status_code == 405
    assert client.post(reverse("logout")).status_code == 302
    assert client.get(reverse("chat")).status_code == 302


def test_the_admin_shares_the_login_page(client, reader, superuser):
    page = client.get(reverse("admin:index"), follow=True)
    assert page.redirect_chain[-1][0] == "/login/?next=%2Fadmin%2F"
    assert (
        client.post(page.request["PATH_INFO"], {"username": "olga", "password": "pw", "next": "/admin/"})["Location"]
        == "/admin/"
    )
    client.force_login(reader)
    assert "rita may not open that page." in client.get(reverse("admin:index"), follow=True).content.decode()


def test_asking_without_javascript_leads_to_the_answer(reader_client, library, agents):
    response = ask(reader_client)
    assert response.status_code == 200
    interaction = Interaction.objects.get()
    assert response.request["PATH_INFO"] == f"/c/{interaction.session.removeprefix('chat-')}/"
    page = response.content.decode()
    assert interaction.variant.name in page
    assert "Marta Olsen" in page
    assert f'action="{reverse("rate", args=[interaction.pk])}"' in page
    assert reverse("source", args=[interaction.sources[0]["chunk_id"]]) in page
    assert "Harbour" in page


def test_a_follow_up_takes_as_much_of_the_conversation_as_a_question_may_carry(reader_client, library):
    scripted("wordy", answer="x" * 32_000)
    conversation = uuid.uuid4()
    for _ in range(5):
        assert ask(reader_client, conversation=conversation).status_code == 200
    sent = [sum(len(turn["content"]) for turn in row.messages) for row in Interaction.objects.order_by("created_at")]
    assert sent == sorted(sent) and sent[-1] == sent[-2] == 3 * (32_000 + len(QUESTION)) <= MESSAGES_CHARS_MAX


def test_how_long_an_answer_takes_is_said_from_the_first_on(reader_client, library, agents):
    assert "No answer was timed here yet." in reader_client.get("/").content.decode()
    for n, says in ((1, "The one answer here took 1.2 s."), (2, "The 2 answers here took about 1.2 s.")):
        ask(reader_client, agent="brisk")
        Interaction.objects.update(latency_ms=1200)
        assert says in reader_client.get("/").content.decode()
        assert Interaction.objects.count() == n
    ask(reader_client, agent="calm")
    Interaction.objects.update(latency_ms=1200)
    page = reader_client.get("/", {"agent": "calm"}).content.decode()
    assert page.count("calm&#x27;s one answer here took 1.2 s.") == 2, "in the list of agents and, since it is chosen, below"
    assert "Answers take about 1.2 s here." in page and "brisk&#x27;s 2 answers here took about 1.2 s." in page
    assert "No answer of calm was timed" not in reader_client.get("/", {"agent": "nobody"}).content.decode()


def test_a_follow_up_takes_the_earlier_turns_along(reader_client, library, agents):
    conversation = uuid.uuid4()
    ask(reader_client, conversation=conversation)
    response = ask(reader_client, "And the ferries?", conversation=conversation)
    later = Interaction.objects.order_by("created_at").last()
    assert later.messages == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Marta Olsen [1]."},
    ]
    assert response.content.decode().count('class="turn"') == 2


def test_the_chosen_agent_answers_and_stays_chosen(reader_client, library, agents):
    response = ask(reader_client, agent="calm", collection="default")
    interaction = Interaction.objects.get()
    assert (interaction.variant.name, interaction.mode) == ("calm", "manual_override")
    assert "You chose this agent." in response.content.decode()
    assert re.search(r'<option value="calm"[^>]* selected>', response.content.decode())


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"question": "   "}, 400, "The question is empty"),
        ({"question": "x" * 9000}, 400, "9,000 characters"),
        ({"question": "hello", "agent": "nobody"}, 404, "nobody"),
        ({"question": "hello", "collection": "nowhere"}, 404, "nowhere"),
    ],
)
def test_bad_input_is_told_on_the_page_and_logs_nothing(reader_client, library, agents, fields, status, words):
    response = ask(reader_client, **fields)
    assert response.status_code == status
    assert words in response.content.decode()
    assert not Interaction.objects.exists()


def test_a_failed_answer_is_told_and_can_be_asked_again(reader_client, library):
    scripted("broken", fail="unavailable")
    response = ask(reader_client)
    assert response.status_code == 503
    page = response.content.decode()
    assert Interaction.objects.get().state == "failed"
    assert 'class="retry"' in page
    assert 'class="rate"' not in page


def test_only_those_who_may_read_the_log_get_a_link_into_it(client, reader, superuser, library, agents):
    for user, linked in ((reader, False), (superuser, True)):
        client.force_login(user)
        page = ask(client).content.decode()
        assert ("/admin/rewards/interaction/" in page) == linked


def test_an_empty_site_says_what_to_do_first(client, reader, superuser):
    client.force_login(reader)
    page = client.get("/").content.decode()
    assert "none has been uploaded" in page
    assert reverse("admin:agents_document_add") not in page
    client.force_login(superuser)
    assert reverse("admin:agents_document_add") in client.get("/").content.decode()


def test_a_site_without_agents_says_so(reader_client, library, agents):
    for agent in agents:
        agent_set_enabled(agent, False)
    assert "No agent is switched on" in reader_client.get("/").content.decode()


def test_how_long_it_takes_is_the_median_of_recent_answers(reader_client, history):
    Interaction.objects.update(latency_ms=4000)
    assert "Answers take about 4.0 s here." in reader_client.get("/").content.decode()


def test_texts_are_shown_and_never_run(reader_client, library):
    scripted("hostile", answer="<script>alert('answer')</script> [1]")
    Chunk.objects.update(text="<img src=x onerror=alert('document')>", heading="<script>alert('heading')</script>")
    page = ask(reader_client, "<script>alert('question')</script> lighthouse keeper?").content.decode()
    for raw in ("<script>alert", "<img src=x"):
        assert raw not in page
    assert "&lt;script&gt;alert(&#x27;question&#x27;)" in page
    assert "&lt;script&gt;alert(&#x27;answer&#x27;)" in page
    shown = reader_client.get(reverse("source", args=[Chunk.objects.first().pk])).content.decode()
    assert "<img src=x" not in shown
    assert "<script>alert" not in shown


def test_pages_carry_no_inline_script_or_style_and_a_policy_that_would_stop_it(reader_client, history, client):
    conversation = uuid.uuid4()
    ask(reader_client, conversation=conversation)
    for path in ("/", f"/c/{conversation}/", reverse("source", args=[Chunk.objects.first().pk])):
        response = reader_client.get(path)
        page = response.content.decode()
        assert "script-src 'self'" in response["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)", page)
        assert not re.search(r"<[^>]+\s(?:style|on\w+)=", page)


def test_rating_without_javascript_moves_the_arm_and_says_so(reader_client, library, agents, reader):
    ask(reader_client, agent="calm")
    interaction = Interaction.objects.get()
    url = reverse("rate", args=[interaction.pk])
    response = reader_client.post(url, {"reward": "1", "slider": "0.5", "correction": "", "comment": ""})
    assert response.status_code == 200
    assert "calm now has a mean of 1.00 on factual questions, from 1 rated answer." in response.content.decode()
    response = reader_client.post(url, {"reward": "slider", "slider": "0.25", "correction": "Ask Marta.", "comment": "so so"})
    assert "Your rating was replaced." in response.content.decode()
    reward = Reward.objects.get()
    assert (reward.value, reward.rater, reward.correction) == (0.25, "user:rita", "Ask Marta.")


@pytest.mark.parametrize("value", ["2", "-1", "nan", "good", ""])
def test_a_rating_that_is_none_is_refused(reader_client, history, value):
    interaction = Interaction.objects.order_by("created_at").last()
    response = reader_client.post(reverse("rate", args=[interaction.pk]), {"reward": value})
    assert response.status_code == 400
    assert not interaction.rewards.exists()


def test_nobody_sees_or_rates_what_another_asked(client, history, superuser):
    client.force_login(superuser)
    interaction = Interaction.objects.first()
    assert client.get(reverse("answer", args=[interaction.pk])).status_code == 404
    assert client.post(reverse("rate", args=[interaction.pk]), {"reward": "1"}).status_code == 404
    conversation = uuid.uuid4()
    query(QueryRequest(question=QUESTION, session=f"chat-{conversation}", user=interaction.asked_by))
    assert QUESTION not in client.get(reverse("conversation", args=[conversation])).content.decode()


def test_forms_need_their_csrf_token(reader, library, agents):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(reader)
    assert strict.post("/", {"question": QUESTION}).status_code == 403
    assert not Interaction.objects.exists()


def test_the_list_names_each_conversation_by_its_first_question(reader_client, library, agents):
    conversation = uuid.uuid4()
    ask(reader_client, conversation=conversation)
    ask(reader_client, "And the ferries?", conversation=conversation)
    page = reader_client.get("/").content.decode()
    assert page.count('class="past"') == 1
    assert f"<span>{QUESTION}</span>" in page


def test_a_source_opens_at_its_place(reader_client, library, history):
    chunk = Chunk.objects.order_by("ordinal").last()
    page = reader_client.get(reverse("source", args=[chunk.pk])).content.decode()
    assert 'id="passage"' in page
    assert f"passage {chunk.ordinal + 1} of" in page
    assert page.count('class="text"') == min(chunk.ordinal + 1, 5)


def test_a_source_that_is_gone_is_shown_as_the_agent_saw_it(reader_client, library, history, client, clerk):
    interaction = Interaction.objects.first()
    chunk = interaction.sources[0]["chunk_id"]
    document_delete(library.documents.get())
    address = f"{reverse('source', args=[chunk])}?interaction={interaction.pk}"
    response = reader_client.get(address)
    assert response.status_code == 200
    assert "changed or removed" in response.content.decode()
    assert "Marta Olsen" in response.content.decode()
    assert reader_client.get(reverse("source", args=[chunk])).status_code == 404
    client.force_login(clerk)
    assert client.get(address).status_code == 404


def test_a_fall_back_is_told(reader_client, library):
    spare = {"backend": "scripted", "model": "spare", "options": {"answer": "From the spare."}}
    scripted("wobbly", fail="unavailable", fallback=spare)
    page = ask(reader_client).content.decode()
    assert "scripted:spare</strong> answered instead of scripted" in page


def test_the_page_takes_a_bounded_number_of_queries(reader_client, history, django_assert_max_num_queries):
    with django_assert_max_num_queries(14):
        assert reader_client.get("/").status_code == 200
