"""`replay` and `ope` as a person or a script runs them."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from django.core.management import call_command

from adaptrag.common.commands import FAILED, WRONG_USAGE
from rewards.bandit import POLICIES
from rewards.router import BanditRouter
from rewards.services import agent_limit_set, category_pin, prior_set
from tests.rewards.rows import interaction, rate, variant


def run(capsys, *arguments):
    call_command(*map(str, arguments), "--json")
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        call_command(*map(str, arguments))
    return ended.value.code, capsys.readouterr().err


@pytest.fixture
def routing_log(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"category": "ab"[i % 2], "question": f"Q {i}", "rewards": {"good": int(rng.random() < 0.8), "bad": 0}})
        for i in range(120)
    ]
    path = tmp_path / "routing.jsonl"
    path.write_text("\n".join(lines))
    (tmp_path / "routing.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.fixture
def logged_rounds(tmp_path):
    rng = np.random.default_rng(1)
    lines = []
    for i in range(400):
        arm = int(rng.random() < 0.25)
        row = {"arm": arm, "position": i % 2, "reward": int(rng.random() < (0.3, 0.7)[arm]), "propensity": (0.75, 0.25)[arm]}
        lines.append(json.dumps(row))
    path = tmp_path / "logged.jsonl"
    path.write_text("\n".join(lines))
    return path


class TestReplay:
    def test_it_prints_the_promised_keys_and_repeats_by_seed(self, capsys, routing_log):
        promised = {"policy", "rows", "arms", "shuffles", "mean_reward", "interval", "regret", "best_fixed", "oracle"}
        found = run(capsys, "replay", routing_log, "--policy", "thompson", "--shuffles", 3, "--seed", 5)
        assert promised <= found.keys()
        assert (found["policy"], found["rows"], found["arms"], found["shuffles"]) == ("thompson", 120, ["good", "bad"], 3)
        assert found["best_fixed"]["arm"] == "good"
        assert found["interval"][0] <= found["mean_reward"] <= found["interval"][1] <= found["oracle"]
        assert found == run(capsys, "replay", f"{routing_log}.gz", "--policy", "thompson", "--shuffles", 3, "--seed", 5)

    def test_compare_ranks_every_policy_those_that_read_the_questions_too(self, capsys, routing_log):
        found = run(capsys, "replay", routing_log, "--compare", "--shuffles", 2)
        assert {row["policy"] for row in found["policies"]} == set(POLICIES) and found["left_out"] == []
        rewards = [row["mean_reward"] for row in found["policies"]]
        assert rewards == sorted(rewards, reverse=True)

    def test_compare_says_what_it_left_out_where_there_is_nothing_to_read(self, capsys, routing_log):
        rows = [json.loads(line) for line in routing_log.read_text().splitlines()]
        del rows[7]["question"]
        routing_log.write_text("\n".join(json.dumps(row) for row in rows))
        call_command("replay", str(routing_log), "--compare", "--shuffles", "2")
        out, err = capsys.readouterr()
        assert "best fixed arm: good" in out and "left out: lints, discounted_lints" in err

    def test_linear_policies_take_embeddings(self, capsys, routing_log, tmp_path):
        np.save(tmp_path / "e.npy", np.random.default_rng(0).standard_normal((120, 20)))
        options = ("--embeddings", tmp_path / "e.npy", "--shuffles", 1)
        found = run(capsys, "replay", routing_log, "--policy", "lints:dimensions=4", *options)
        assert found["policy"] == "lints" and found["interval"] is None
        assert "lints" in {row["policy"] for row in run(capsys, "replay", routing_log, "--compare", *options)["policies"]}
        np.save(tmp_path / "e.npy", np.zeros((3, 20)))
        code, err = refused(capsys, "replay", routing_log, "--policy", "lints", *options)
        assert code == WRONG_USAGE and "(3, 20)" in err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--policy", "oracle"), "oracle"),
            (("--policy", "ucb1:c=-1"), "c=-1"),
            (("--policy", "ucb1:c"), "name=value"),
            (("--policy", "discounted_thompson:unit=days"), "no clock"),
            (("--shuffles", "0"), "--shuffles"),
        ],
    )
    def test_wrong_usage_is_named(self, capsys, routing_log, arguments, says):
        code, err = refused(capsys, "replay", routing_log, *arguments)
        assert code == WRONG_USAGE and says in err

    def test_a_bad_line_is_named(self, capsys, routing_log):
        routing_log.write_text(routing_log.read_text() + '\n{"rewards": {"good": 2, "bad": 0}}')
        code, err = refused(capsys, "replay", routing_log)
        assert code == WRONG_USAGE and "line 121" in err and "good" in err


class TestOpe:
    def test_it_prints_the_promised_keys(self, capsys, logged_rounds):
        found = run(capsys, "ope", logged_rounds, "--policy", "uniform")
        assert {"policy", "n", "logged_mean", "effective_sample_size", "estimates"} <= found.keys()
        assert [row["estimator"] for row in found["estimates"]] == ["ips", "snips", "dm", "dr"]
        for row in found["estimates"]:
            assert row["interval"][0] < 0.5 < row["interval"][1]
        assert found["logged_mean"] < 0.45 and found["conclusive"]

    def test_estimators_and_policy_are_chosen(self, capsys, logged_rounds):
        found = run(capsys, "ope", logged_rounds, "--policy", "thompson", "--estimator", "snips", "--interval", "bootstrap")
        assert [row["estimator"] for row in found["estimates"]] == ["snips"]
        assert found["estimates"][0]["value"] > found["logged_mean"]
        same = run(capsys, "ope", logged_rounds, "--policy", f"frequencies:{logged_rounds}", "--estimator", "snips")
        assert same["estimates"][0]["value"] == pytest.approx(same["logged_mean"], abs=0.02)

    @pytest.mark.parametrize("arguments", [("--estimator", "oracle"), ("--policy", "oracle"), ("--clip", "0")])
    def test_wrong_usage_is_named(self, capsys, logged_rounds, arguments):
        code, err = refused(capsys, "ope", logged_rounds, *arguments)
        assert code == WRONG_USAGE and arguments[1] in err

    def test_a_bad_line_is_named(self, capsys, logged_rounds):
        logged_rounds.write_text('{"arm": 1, "reward": 1, "propensity": 0}')
        code, err = refused(capsys, "ope", logged_rounds)
        assert code == WRONG_USAGE and "line 1" in err and "propensity" in err

    def test_numbers_of_a_context_are_what_a_linear_policy_reads(self, capsys, tmp_path):
        """Arm a is right where the first number is positive, b where it is not."""
        rng, rows = np.random.default_rng(4), []
        for _ in range(400):
            context, arm = rng.normal(size=2), rng.integers(2)
            right = (context[0] > 0) == (arm == 0)
            rows.append({"arm": "ab"[arm], "reward": float(right), "propensity": 0.5, "context": context.tolist()})
        path = tmp_path / "rounds.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        found = run(capsys, "ope", path, "--policy", "lints:dimensions=2", "--estimator", "snips")
        assert found["estimates"][0]["value"] > 0.8
        for wrong, says in (({}, "None"), ({"context": "long"}, "a list of 2 numbers"), ({"context": [1.0, "x"]}, "'x'")):
            row = {"arm": "a", "reward": 1, "propensity": 0.5} | wrong
            path.write_text("\n".join(map(json.dumps, [*rows, row])))
            code, err = refused(capsys, "ope", path, "--policy", "lints:dimensions=2")
            assert code == WRONG_USAGE and "line 401" in err and says in err
            assert run(capsys, "ope", path, "--policy", "uniform")["n"] == 401  # which reads none


@pytest.mark.django_db
class TestOpeOfTheSite:
    def asked(self, variants, seed, reward, **fields):
        decision = BanditRouter().route("factual", variants, seed=seed)
        names = ("mode", "propensity", "candidates", "policy", "policy_revision", "seed", "clock")
        asked = interaction(decision.variant, **{name: getattr(decision, name) for name in names} | fields)
        rate(asked, reward(decision.variant.name))
        return decision

    def test_what_no_policy_drew_is_left_out_and_named(self, capsys):
        alpha, beta = variant("alpha"), variant("beta")
        rng = np.random.default_rng(0)
        for seed in range(60):
            self.asked([alpha, beta], seed, lambda name: float(rng.random() < {"alpha": 0.8, "beta": 0.3}[name]))
        drawn = run(capsys, "ope", "log", "--policy", "uniform")
        assert (drawn["n"], drawn["left_out"]) == (60, {})
        rate(interaction(alpha, mode="manual_override"), 0.0)
        rate(interaction(alpha, mode="compare"), 0.0)
        self.asked([alpha, beta], 1, lambda name: 0.0, fallback={"from": "a", "to": "b", "reason": "down"})
        category_pin(category="factual", agent_name="beta")
        self.asked([alpha, beta], 2, lambda name: 0.0)
        found = run(capsys, "ope", "log", "--policy", "uniform")
        reasons = {"forced by the caller": 1, "answered by a fall-back": 1, "pinned": 1}
        assert (found["n"], found["left_out"]) == (60, reasons)
        assert found["estimates"] == drawn["estimates"]

    def test_decisions_that_gave_an_agent_no_chance_are_left_out(self, capsys):
        alpha, beta = variant("alpha"), variant("beta")
        for seed in range(20):
            self.asked([alpha, beta], seed, lambda name: 0.5)
        agent_limit_set(agent_name="beta", max_share=0)
        for seed in range(7):
            self.asked([alpha, beta], seed, lambda name: 1.0)
        found = run(capsys, "ope", "log", "--policy", "thompson")
        assert (found["n"], found["left_out"]) == (20, {"with an agent that had no chance": 7})
        assert not found["conclusive"] and "20 rounds" in found["complaint"]

    def test_an_agent_that_was_no_candidate_gets_nothing_from_the_policy(self):
        from evals.ope.target import policy_probabilities, uniform
        from evals.site_log import site_log
        from rewards.bandit import HierarchicalThompson

        agents = [variant(name) for name in ("alpha", "beta", "gamma")]
        prior_set(category="factual", agent_name="gamma", pulls=50, total=50)
        for seed in range(8):
            self.asked(agents[: 2 + seed % 2], seed, lambda name: 0.5)
        log = site_log()
        for target in (uniform(log.rounds), policy_probabilities(log.rounds, HierarchicalThompson(), priors=log.priors)):
            assert target.sum(axis=1) == pytest.approx(1)
            assert (target[0::2, 2] == 0).all() and (target[1::2, 2] > 0).all()

    @pytest.mark.parametrize("chance", [0.1, 0.0], ids=["tried", "without a chance"])
    def test_a_canary_and_its_agent_share_one_propensity(self, capsys, chance):
        """All rewards are 0.6, and so is the value of any policy; the canary alone having no chance leaves nothing out."""
        first, second, beta = variant("alpha"), variant("alpha", revision=2, state="canary"), variant("beta")
        shares = {first: 0.5 - chance, second: chance, beta: 0.5}
        candidates = [
            {"agent": one.name, "revision": one.revision, "variant_id": one.pk, "probability": share}
            for one, share in shares.items()
        ]
        for one, share in shares.items():
            for _ in range(round(20 * share)):
                rate(interaction(one, mode="bandit", propensity=share, candidates=candidates), 0.6)
        found = run(capsys, "ope", "log", "--policy", "uniform")
        assert (found["n"], found["left_out"]) == (20, {})
        assert [row["value"] for row in found["estimates"]] == pytest.approx([0.6] * 4)

    def test_an_empty_log_says_what_to_do(self, capsys):
        code, err = refused(capsys, "ope", "log")
        assert code == FAILED and "rate" in err
