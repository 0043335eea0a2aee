"""Evaluation in the admin: sets in and out, runs started and read, priors, comparisons, judges, logged questions."""

import csv
import io
import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from adaptrag.common.models import Job
from adaptrag.orchestrator import QueryRequest, query
from evals.admin.pages import diff_html, ranked_questions
from evals.judging import judge_named
from evals.models import EvalRun, EvalSet
from evals.selectors import judge_calibrations
from evals.services import RunRequest, evalrun_create, evalrun_execute, interactions_rate, ratings
from rewards.models import Interaction, PriorReward, Reward
from rewards.services import feedback_record

pytestmark = pytest.mark.django_db


def page(name, *args):
    return reverse(f"admin:evals_{name}", args=args)


def text(response):
    assert response.status_code == 200
    return response.content.decode()


def test_a_set_is_imported_shown_and_exported_as_it_was(operator_client):
    lines = b'{"id": "q1", "question": "Who?", "answers": ["Marta"], "category": "factual"}\n{"id": "q2", "question": "Why?"}\n'
    upload = SimpleUploadedFile("Harbour Questions.jsonl", lines)
    response = operator_client.post(page("evalset_add"), {"file": upload, "name": ""}, follow=True)
    assert "harbour-questions v1 holds 2 questions." in text(response)
    eval_set = EvalSet.objects.get()
    assert eval_set.origin == "Harbour Questions.jsonl"
    exported = b"".join(operator_client.get(page("evalset_export", eval_set.pk)).streaming_content)
    again = operator_client.post(
        page("evalset_add"), {"file": SimpleUploadedFile("x.jsonl", exported), "name": "harbour-questions"}
    )
    assert again.status_code == 302
    assert EvalSet.objects.get() == eval_set  # equal, so no new version


def test_a_broken_file_is_refused_with_its_lines(operator_client):
    upload = SimpleUploadedFile("bad.jsonl", b'{"question": "Who?"}\n{"id": 1}\nprose\n')
    shown = text(operator_client.post(page("evalset_add"), {"file": upload, "name": ""}))
    assert "line 2 has no question" in shown and "line 3 is not JSON" in shown
    assert not EvalSet.objects.exists()


def test_a_run_is_started_from_its_form(operator_client, harbour, scripted):
    one, two = scripted("one"), scripted("two")
    form = {
        "eval_set": harbour.pk, "agents": [one.pk, two.pk], "baseline": two.pk, "judge": "reference", "top_k": 3,
        "concurrency": 2, "max_questions": 2, "budget_tokens": 500,
    }  # fmt: skip
    response = operator_client.post(page("evalrun_add"), form)
    run = EvalRun.objects.get()
    assert response.url == page("evalrun_change", run.pk)
    assert (run.baseline, run.top_k, run.max_questions, run.budget_tokens) == ("two", 3, 2, 500)
    assert run.created_by.username == "olga"
    assert Job.objects.get(pk=run.job_id).kind == "evals.run"
    shown = text(operator_client.get(response.url))
    assert f'hx-get="{page("evalrun_status", run.pk)}"' in shown
    operator_client.post(page("evalrun_cancel", run.pk), {"confirmed": "yes"})
    run.refresh_from_db()
    assert run.status == "cancelled"
    assert operator_client.get(page("evalrun_status", run.pk))["HX-Refresh"] == "true"
    operator_client.post(page("evalrun_resume", run.pk), {"confirmed": "yes"})
    run.refresh_from_db()
    assert run.status == "queued"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agents": []}, "This field is required"),
        ({"judge": "llm"}, "No judge model"),
        ({"pairwise": "on"}, "Pairwise comparison takes judge"),
        ({"top_k": 99}, "less than or equal to 50"),
    ],
)
def test_a_wrong_form_comes_back_with_the_reason(operator_client, harbour, scripted, changes, words):
    form = {"eval_set": harbour.pk, "agents": [scripted("one").pk], "judge": "reference", "top_k": 5, "concurrency": 1}
    assert words in text(operator_client.post(page("evalrun_add"), form | changes))
    assert not EvalRun.objects.exists()


def test_a_done_run_shows_figures_sentences_and_answers_with_their_text_escaped(operator_client, done_run):
    shown = text(operator_client.get(page("evalrun_change", done_run.pk)))
    assert "No difference shown between two and one" in shown
    assert "<script>alert(1)" not in shown and "&lt;script&gt;alert(1)" in shown
    assert "<b>ferries</b>" not in shown
    assert shown.index("Who is the lighthouse keeper?") < shown.index("When do &lt;b&gt;ferries")  # the loss comes first
    result = done_run.results.get(question__key="keeper", variant__name="two")
    assert page("evalresult_change", result.pk) in shown
    traced = text(operator_client.get(page("evalresult_change", result.pk)))
    assert "The lighthouse keeper is Marta Olsen." in traced and "retrieve" in traced
    assert "done" in text(operator_client.get(page("evalrun_changelist")))


def test_the_biggest_regressions_come_first_and_unscored_ones_last(done_run):
    order = [done_run.eval_set.questions.get(pk=pk).key for pk, _ in ranked_questions(done_run)]
    assert order == ["keeper", "ferries", "open"]


def test_a_diff_marks_words_and_escapes_them():
    assert diff_html("the <b> cat", "the dog") == "the <del>&lt;b&gt; cat</del><ins>dog</ins>"
    assert diff_html("same", "same") == "same"


def test_exports_hold_every_answer_and_no_formula(operator_client, harbour, scripted):
    scripted("sums", "=1+1")
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("sums",)))
    evalrun_execute(run.pk)
    raw = b"".join(operator_client.get(page("evalrun_export.csv", run.pk)).streaming_content).decode()
    rows = list(csv.DictReader(io.StringIO(raw)))
    assert [row["id"] for row in rows] == ["keeper", "ferries", "open"]
    assert rows[0]["answer"] == "'=1+1" and rows[0]["token_f1"] == "0.0" and rows[2]["score"] == ""
    exported = json.loads(b"".join(operator_client.get(page("evalrun_export.json", run.pk)).streaming_content))
    assert exported["questions"][0]["agents"]["sums"]["answer"] == "=1+1"


def test_scores_become_priors_after_a_question_for_their_worth(operator_client, done_run):
    operator_client.post(page("evalrun_priors", done_run.pk), {"pulls": "20"})
    assert {prior.pulls for prior in PriorReward.objects.all()} == {20}
    assert PriorReward.objects.filter(agent_name="one").exists()


def test_runs_are_compared_over_the_questions_both_scored(operator_client, done_run):
    second = evalrun_create(RunRequest(eval_set=done_run.eval_set, agents=("one",), name="again"))
    evalrun_execute(second.pk)
    address = f"{page('evalrun_compare')}?runs={done_run.pk},{second.pk}&baseline={done_run.pk}"
    shown = text(operator_client.get(address))
    assert f"No difference shown between one and run {done_run.pk}" in shown
    chosen = {"action": "compare", "_selected_action": [done_run.pk, second.pk]}
    assert operator_client.post(page("evalrun_changelist"), chosen).url == address
    assert "Choose two or more" in text(operator_client.get(page("evalrun_compare")))


def test_logged_questions_are_added_to_a_set(operator_client, harbour, scripted):
    scripted("one")
    result = query(QueryRequest(question="Who is the keeper?"))
    feedback_record(interaction_id=result.interaction_id, reward=0.2, rater="ola", correction="Marta Olsen")
    chosen = {"action": "add_to_eval_set", "_selected_action": [str(result.interaction_id)]}
    changelist = reverse("admin:rewards_interaction_changelist")
    assert "corrections by people become their gold answers" in text(operator_client.post(changelist, chosen))
    assert "Use 1 to 64 lower-case letters" in text(operator_client.post(changelist, chosen | {"name": "No Slug"}))
    operator_client.post(changelist, chosen | {"name": "hard"})
    (question,) = EvalSet.objects.get(name="hard").questions.all()
    assert (question.question, question.answers) == ("Who is the keeper?", ["Marta Olsen"])


def test_a_judge_rates_logged_answers_and_is_calibrated_against_people(
    operator_client, harbour, scripted, settings, monkeypatch
):
    settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL = "scripted", "judge"
    scripted("one")
    result = query(QueryRequest(question="Who is the keeper?"))
    feedback_record(interaction_id=result.interaction_id, reward=1.0, rater="ola")
    chosen = {"action": "let_the_judge_rate", "_selected_action": [str(result.interaction_id)]}
    operator_client.post(reverse("admin:rewards_interaction_changelist"), chosen)
    payload = Job.objects.get(kind="evals.rate").payload
    assert payload == {"interactions": [str(result.interaction_id)], "backend": "scripted", "model": "judge"}

    def rate():
        return interactions_rate(payload["interactions"], backend="scripted", model="judge", progress=lambda *_: None)

    told = rate()  # this judge only talks
    assert (told["rated"], told["failed"]) == (0, 1) and "no usable verdict" in told["last_error"]
    verdict = {"answer": '{"explanation": "right", "score": 0.9}'}
    monkeypatch.setattr(ratings, "judge_named", lambda backend, model: judge_named(backend, model, verdict))
    assert rate()["rated"] == 1
    rating = Reward.objects.get(source="judge")
    assert (rating.value, rating.comment) == (0.9, "right")
    (judge,) = judge_calibrations()
    assert (judge.model, judge.people.n, judge.calibrated) == ("scripted:judge", 1, False)
    shown = text(operator_client.get(reverse("admin_judges")))
    assert "not calibrated" in shown and "1 pairs of 50 needed" in shown


JUDGED = {
    "judge": "llm", "judge_backend": "scripted", "judge_model": "j", "pairwise": True,
    "judge_options": {"answer": '{"explanation": "because it is so", "score": 0.75, "winner": "A"}'},
}  # fmt: skip


def test_an_uncalibrated_judge_is_labelled_wherever_its_scores_and_ratings_stand(operator_client, harbour, scripted):
    scripted("one"), scripted("two", "at six")
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("one", "two"), **JUDGED))
    evalrun_execute(run.pk)
    result = run.results.get(question__key="keeper", variant__name="two")
    shown = text(operator_client.get(page("evalresult_change", result.pk)))
    assert "judge not calibrated" in shown and "shown gold answers" in shown
    assert "because it is so" in shown and "pairwise: not calibrated" in shown and "the order of the answers decided" in shown
    assert "0.750, judge not calibrated" in text(operator_client.get(page("evalresult_changelist")))
    assert "j, not calibrated" in text(operator_client.get(page("evalrun_changelist")))
    assert "Pairwise (not calibrated)" in text(operator_client.get(page("evalrun_change", run.pk)))
    raw = b"".join(operator_client.get(page("evalrun_export.csv", run.pk)).streaming_content).decode()
    rows = {(row["id"], row["agent"]): row for row in csv.DictReader(io.StringIO(raw))}
    row = rows["keeper", "two"]
    assert (row["judge_calibrated"], row["pairwise"], row["pairwise_consistent"]) == ("no", "tie", "False")
    assert row["pairwise_explanations"] == "because it is so | because it is so" and int(row["judge_tokens"]) > 0
    asked = query(QueryRequest(question="Who is the keeper?"))
    feedback_record(interaction_id=asked.interaction_id, reward=0.4, source="judge", rater="scripted:j@abc")
    assert "not calibrated" in text(
        operator_client.get(reverse("admin:rewards_interaction_change", args=[asked.interaction_id]))
    )
    assert "scripted:j@abc, not calibrated" in text(operator_client.get(reverse("admin:rewards_reward_changelist")))


def test_calibration_is_read_as_it_is_now_and_not_as_the_run_ended(operator_client, harbour, scripted, monkeypatch):
    scripted("one")
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("one",), **{**JUDGED, "pairwise": False}))
    evalrun_execute(run.pk)
    monkeypatch.setattr("evals.calibration.MIN_PAIRS", 0)
    monkeypatch.setattr("evals.calibration.MIN_SPEARMAN_LOW", -2)
    monkeypatch.setattr("evals.calibration.Calibration.calibrated", True)
    assert "not calibrated" not in text(operator_client.get(page("evalrun_changelist")))
    assert "Judge not calibrated" not in text(operator_client.get(page("evalrun_change", run.pk)))


def test_a_run_stopped_at_its_budget_is_resumed_with_a_larger_one(operator_client, harbour, scripted):
    scripted("one")
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("one",), budget_tokens=1))
    evalrun_execute(run.pk)
    address = page("evalrun_resume", run.pk)
    shown = text(operator_client.get(address))
    assert "It stopped at its budget" in shown and 'name="budget_tokens"' in shown and 'value="1"' in shown
    assert "Resume it with a larger budget_tokens" in text(operator_client.post(address, {"budget_tokens": 1}))
    assert operator_client.post(address, {"budget_tokens": 100_000}).status_code == 302
    run.refresh_from_db()
    assert (run.status, run.budget_tokens) == ("queued", 100_000)


def test_failed_preferences_can_be_asked_for_again(operator_client, harbour, scripted):
    scripted("one"), scripted("two", "at six")
    options = {"script": [["winner", "prose"], ["", '{"explanation": "right", "score": 1}']]}
    run = evalrun_create(RunRequest(eval_set=harbour, agents=("one", "two"), **{**JUDGED, "judge_options": options}))
    evalrun_execute(run.pk)
    run.refresh_from_db()
    assert run.pairs.filter(error__isnull=False).count() == 3 and not run.results.filter(error__isnull=False).exists()
    shown = text(operator_client.get(page("evalrun_change", run.pk)))
    assert "3 items failed" in shown and "Ask again what failed" in shown
    operator_client.post(page("evalrun_resume", run.pk), {"confirmed": "yes"})
    run.refresh_from_db()
    assert run.status == "queued" and not run.pairs.exists()


def test_the_judges_options_are_in_the_form_and_its_complaints_beside_them(operator_client, harbour, scripted):
    form = {
        "eval_set": harbour.pk, "agents": [scripted("one").pk], "judge": "llm", "judge_model": "scripted:j", "top_k": 5,
        "concurrency": 1, "judge_blind": "on", "judge_options": '{"price_prompt_per_million": 2}',
    }  # fmt: skip
    assert "Unknown option" in text(operator_client.post(page("evalrun_add"), form | {"judge_options": '{"colour": 1}'}))
    assert "must be a JSON object" in text(operator_client.post(page("evalrun_add"), form | {"judge_options": "[1]"}))
    assert operator_client.post(page("evalrun_add"), form).status_code == 302
    run = EvalRun.objects.get()
    assert (run.judge_blind, run.judge_options) == (True, {"price_prompt_per_million": 2})


def test_staff_without_permission_see_and_change_nothing(clerk_client, done_run):
    for name in ("evalrun_add", "evalset_add", "evalrun_compare", "experiment_add"):
        assert clerk_client.get(page(name)).status_code == 403
    assert clerk_client.get(reverse("admin_judges")).status_code == 403
    for name in ("evalrun_change", "evalrun_export.csv", "evalrun_status", "evalrun_cancel", "evalrun_priors"):
        assert clerk_client.post(page(name, done_run.pk), {"confirmed": "yes", "pulls": 5}).status_code == 403
    assert not PriorReward.objects.exists()


def test_empty_pages_say_what_to_do_first(operator_client):
    assert "Import a JSON-lines file" in text(operator_client.get(page("evalset_changelist")))
    assert "It touches no traffic" in text(operator_client.get(page("evalrun_changelist")))
    assert "No chat model has judged anything yet" in text(operator_client.get(reverse("admin_judges")))
    assert not Interaction.objects.exists()
