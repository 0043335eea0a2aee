"""`evals` on the command line: the table, the JSON that scripts rely on, and the exit codes of its gates."""

import io
import json

import numpy as np
import pytest
from django.core.management import call_command
from scipy import stats

from agents.services import agent_register, agent_revise, collection_get_or_create, document_add
from evals.models import EvalRun
from evals.statistics import RESAMPLES

pytestmark = pytest.mark.django_db


def scripted(name, text):
    return agent_register(
        name=name, strategy="naive_rag", chat_backend="scripted", parameters={"retriever": "bm25"},
        chat_options={"answer": text, "script": [["lighthouse (1|3|5|7)", "Marta Olsen"]]},
    )  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    document_add(collection=collection_get_or_create("default"), name="sea.md", data=b"# Sea\n\nThe keeper is Marta Olsen.")
    path = tmp_path / "sea.jsonl"
    lines = [{"id": f"q{n}", "question": f"Who keeps lighthouse {n}?", "answers": ["Marta Olsen"]} for n in range(10)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def evals(*words, code=0):
    """(stdout, stderr) of the command; `code` is the exit code that it must have."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("evals", *map(str, words), stdout=out, stderr=err)
        ended = 0
    except SystemExit as stop:
        ended = stop.code
    assert ended == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def test_the_json_holds_what_scripts_rely_on_and_agrees_with_scipy(dataset):
    scripted("one", "Nobody"), scripted("two", "The keeper is Marta Olsen")
    result = json.loads(evals("--agents", "one,two", "--dataset", dataset, "--json")[0])
    assert {"run", "eval_set", "judge", "agents", "comparisons", "results_file"} <= result.keys()
    row = result["agents"][1]
    keys = {"agent", "score", "interval", "n", "unscored", "wins", "latency_ms_p50"}
    assert keys <= row.keys()
    (comparison,) = result["comparisons"]
    assert {"agent", "baseline", "difference", "interval", "p_value", "n"} <= comparison.keys()
    # "keeper is Marta Olsen" against "Marta Olsen": precision 1/2, recall 1.
    ones = np.array([0.0, 1.0] * 4 + [0.0, 0.0])
    twos = np.array([2 / 3, 1.0] * 4 + [2 / 3, 2 / 3])
    assert row["score"] == pytest.approx(twos.mean(), abs=1e-6)
    assert comparison["difference"] == pytest.approx((twos - ones).mean(), abs=1e-6)
    assert comparison["p_value"] == pytest.approx(stats.wilcoxon(twos - ones, zero_method="pratt").pvalue, abs=1e-6)
    interval = stats.bootstrap(
        (twos - ones,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    assert comparison["interval"] == [pytest.approx(interval.low, abs=0.03), pytest.approx(interval.high, abs=0.03)]


def test_the_table_ends_with_the_sentence(dataset):
    scripted("one", "Nobody"), scripted("two", "The keeper is Marta Olsen")
    out, _ = evals("--agents", "one,two", "--dataset", dataset)
    assert "sea v1, 10 questions, judge reference" in out
    assert "two is better than one by 0.40, 95 % interval 0." in out


def test_gates_end_with_3(dataset):
    one = scripted("one", "The keeper is Marta Olsen")
    arguments = ["--agents", "one", "--dataset", dataset]
    before = json.loads(evals(*arguments, "--fail-under", "0.7", "--json")[0])["run"]
    out, _ = evals(*arguments, "--fail-under", "0.9", code=3)
    assert "Gate not met: one has 0.800 (n 10), at least 0.9 was asked for" in out
    agent_revise(one, chat_options={"answer": "Nobody"})
    evals(*arguments, "--baseline", before, "--max-regression", "0.9")
    out, _ = evals(*arguments, "--baseline", before, "--max-regression", "0.1", code=3)
    assert f"Gate not met: one lost 0.800 against run {before} (n 10), at most 0.1 was allowed to be lost" in out
    assert f"one is worse than run {before} by 0.80" in out


def test_a_gate_that_has_nothing_to_compare_is_refused_before_anything_is_asked(dataset, tmp_path):
    scripted("one", "Marta Olsen"), scripted("two", "Marta Olsen")
    arguments = ["--agents", "one", "--dataset", dataset]
    before = json.loads(evals(*arguments, "--json")[0])["run"]
    against = ["--baseline", before, "--max-regression", "0.1"]
    other = tmp_path / "other.jsonl"
    other.write_text(dataset.read_text().replace("Who keeps", "Who built"))
    judge = ["--judge", "llm", "--judge-model", "scripted:j"]
    for words, told in (
        (["--agents", "one,two", "--dataset", dataset, *against], "two (0 shared questions with scores)"),
        (["--agents", "one", "--dataset", other, *against], "one (0 shared questions with scores)"),
        ([*arguments, "--max-questions", 1, *against], "one (1 shared question with scores)"),
        ([*arguments, *judge, *against], "were judged differently"),
        ([*arguments, "--fail-under", "nan"], "--fail-under must be a number, not nan"),
        ([*arguments, "--baseline", before, "--max-regression", "inf"], "--max-regression must be a number, not inf"),
        ([*arguments, "--judge-options", "{"], "--judge-options is not JSON"),
        ([*arguments, *judge, "--judge-options", '{"colour": 1}'], "The judge: Unknown option 'colour'"),
    ):
        assert told in evals(*words, code=2)[1]
    assert EvalRun.objects.count() == 1
    out, _ = evals(*arguments, *against, "--fail-under", 0.5)
    assert "Gate met: one has 1.000 (n 10)" in out and f"Gate met: one gained 0.000 against run {before} (n 10)" in out


def test_a_run_that_stopped_or_failed_meets_no_gate(dataset):
    scripted("one", "Marta Olsen")
    out, _ = evals("--agents", "one", "--dataset", dataset, "--fail-under", "0.1", "--budget-tokens", 1, code=3)
    assert "is not done: stopped at its budget" in out and "one has scores for 1 of 10 questions, too few" in out
    agent_register(
        name="frail", strategy="naive_rag", chat_backend="openai_compatible", chat_model="m", parameters={"retriever": "bm25"},
        chat_options={"base_url": "http://127.0.0.1:9/v1", "max_retries": 0},
    )  # fmt: skip
    out, _ = evals("--agents", "frail", "--dataset", dataset, "--fail-under", "0.1", code=3)
    assert "Gate not met: frail has 0.000 (n 10), at least 0.1" in out  # a failed answer is worth nothing


def test_options_of_the_judge_reach_it(dataset):
    scripted("one", "Marta Olsen")
    verdict = json.dumps({"answer": '{"explanation": "right", "score": 0.5}', "price_prompt_per_million": 1e6})
    words = [
        "--agents",
        "one",
        "--dataset",
        dataset,
        "--judge",
        "llm",
        "--judge-model",
        "scripted:j",
        "--judge-options",
        verdict,
    ]
    result = json.loads(evals(*words, "--judge-blind", "--json")[0])
    assert result["agents"][0]["score"] == 0.5 and result["judge_blind"] and result["judge_cost_usd"] > 1
    assert not EvalRun.objects.get().results.first().judgement["references"]


def test_revisions_of_one_agent_are_told_apart(dataset):
    agent_revise(scripted("one", "Nobody"), chat_options={"answer": "Marta Olsen"})
    result = json.loads(evals("--agents", "one@1,one@2", "--dataset", dataset, "--json")[0])
    assert [(row["agent"], row["score"]) for row in result["agents"]] == [("one r1", 0.4), ("one r2", 1.0)]


def test_a_spent_budget_ends_cleanly_and_resuming_with_more_does_the_rest(dataset):
    scripted("one", "Nobody")
    result = json.loads(evals("--agents", "one", "--dataset", dataset, "--budget-tokens", 1, "--json")[0])
    assert (result["state"], result["agents"][0]["n"]) == ("stopped", 1)
    result = json.loads(evals("--resume", result["run"], "--budget-tokens", 10**6, "--json")[0])
    assert (result["state"], result["agents"][0]["n"]) == ("done", 10)
    assert "is done; nothing is missing" in evals("--resume", result["run"], code=1)[1]


def test_ctrl_c_keeps_what_is_answered_and_says_how_to_go_on(dataset, monkeypatch):
    from evals.management.commands.evals import Command

    def interrupt(self, fraction, message=""):
        if message.startswith("3 of 10"):
            raise KeyboardInterrupt

    scripted("one", "Nobody")
    monkeypatch.setattr(Command, "progress", interrupt)
    out, err = evals("--agents", "one", "--dataset", dataset, "--json", code=1)
    run = EvalRun.objects.get()
    assert f"go on with: evals --resume {run.pk}" in err
    assert (json.loads(out)["state"], run.results.count()) == ("cancelled", 3)
    monkeypatch.undo()
    assert json.loads(evals("--resume", run.pk, "--json")[0])["agents"][0]["n"] == 10


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--dataset", "nowhere"], 1, "There is no eval set 'nowhere'"),
        (["--agents", "ghost"], 1, "The agent 'ghost' does not exist"),
        (["--agents", "one@9"], 1, "There is no agent 'one@9'; there is one@1"),
        (["--top-k", "0"], 2, "top_k must be a whole number from 1 to 50"),
        (["--budget-usd", "nan"], 2, "budget_usd must be a sum"),
        (["--max-regression", "0.1"], 2, "--max-regression needs --baseline"),
        (["--baseline", "77"], 1, "There is no eval run 77. There is none yet."),
        (["--judge", "llm"], 2, "No judge model"),
        (["--pairwise"], 2, "Pairwise comparison takes judge 'llm'"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(dataset, arguments, code, words):
    scripted("one", "Nobody")
    given = arguments if "--dataset" in arguments else ["--dataset", dataset, *arguments]
    assert words in evals(*given, code=code)[1]
    assert not EvalRun.objects.exists()


def test_without_a_dataset_the_data_folders_questions_are_asked(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    document_add(collection=collection_get_or_create("default"), name="sea.md", data=b"# Sea\n\nThe keeper is Marta Olsen.")
    scripted("one", "Marta Olsen")
    folder = tmp_path / "data" / "eval"
    folder.mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"query": "Who keeps it?", "expected": "Marta Olsen"}\n')
    result = json.loads(evals("--json")[0])
    assert (result["eval_set"], result["questions"], result["agents"][0]["score"]) == ("queries v1", 1, 1.0)
