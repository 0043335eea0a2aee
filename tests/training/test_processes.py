"""Training in processes of its own: killed and resumed, and shared by two; and the shipped model, trained for a few steps."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from agents.llm.adapters import WEIGHTS
from tests.agents.faulty_server import answer, serving
from tests.agents.tiny_chat import make, until
from tests.ops.site import ROOT, Site
from tests.training.chats import chat, chats, uneven
from training.encoding import Encoder, schedule
from training.launch import SPEC, launch
from training.lora import train_lora
from training.recipe import Recipe

pytestmark = pytest.mark.slow


def test_two_processes_learn_what_one_does(tmp_path):
    model = make(tmp_path / "model")
    recipe = Recipe(steps=3, batch=4, micro=2, every=3, threads=1, learning_rate=0.01)
    points, checkpoints = [], []
    shared = launch(2)(
        model, uneven(12), chats(4), tmp_path / "two", recipe, on_point=points.append, on_checkpoint=checkpoints.append
    )
    alone = train_lora(model, uneven(12), chats(4), tmp_path / "one", recipe)
    assert [point.step for point in points if point.train_loss is not None] == [1, 2, 3]
    assert checkpoints == [3]
    one, two = load_file(alone.path / WEIGHTS), load_file(shared.path / WEIGHTS)
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert shared.tokens == alone.tokens
    lengths = [len(encoded) for encoded in map(Encoder(model).encode, uneven(12))]
    assert {len(row) for row in schedule(lengths, steps=3, batch=4, micro=2, seed=0)} == {1, 2, 3}  # accelerate drops such


def test_two_machines_learn_what_one_does(tmp_path):
    """Two launchers meet on loopback; the second is what docs/fine-tuning.md says to type on the other machine."""
    model = make(tmp_path / "model")
    recipe = Recipe(steps=2, batch=4, micro=2, every=2, threads=1, learning_rate=0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def words(rank):
        return [
            "--multi_gpu", "--num_machines", "2", "--num_processes", "2", f"--machine_rank={rank}", "--same_network",
            "--main_process_ip", "127.0.0.1", "--main_process_port", str(port),
        ]  # fmt: skip

    other: list[subprocess.Popen] = []

    def join():
        until((tmp_path / "two" / SPEC).is_file, 60)
        command = [sys.executable, "-m", "accelerate.commands.launch", *words(1), "-m", "training.launch"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        other.append(subprocess.Popen([*command, str(tmp_path / "two" / SPEC)], cwd=ROOT, env=environment))

    second = threading.Thread(target=join)
    second.start()
    try:
        shared = launch(1, words(0))(model, uneven(12), chats(4), tmp_path / "two", recipe)
        second.join()
        assert other[0].wait(60) == 0
    finally:
        second.join()
        other[0].kill()
    alone = train_lora(model, uneven(12), chats(4), tmp_path / "one", recipe)
    one, two = load_file(alone.path / WEIGHTS), load_file(shared.path / WEIGHTS)
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_training_killed_with_minus_nine_is_resumed_by_the_command(tmp_path):
    model = make(tmp_path / "model")
    environment = {**os.environ, "ADAPTRAG_DATA_DIR": str(tmp_path / "site"), "ADAPTRAG_TRAINING_THREADS": "1"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)

    def command(*words):
        return [sys.executable, "manage.py", *words]

    def manage(*words):
        done = subprocess.run(command(*words), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    manage("migrate", "-v0")
    manage("prepare_sft_data", "--model", str(model), "--max-tokens", "1000")
    words = ("train_lora", "--model", str(model), "--steps", "30", "--batch", "2", "--micro", "1", "--json")
    process = subprocess.Popen(command(*words), cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    run = tmp_path / "site/training/runs/1"
    end = time.monotonic() + 300
    while not list(run.glob("checkpoints/*/complete")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    result = json.loads(manage("train_lora", "--resume", "1", "--json"))
    assert result["run"] == 1
    assert result["candidate"] == "lora_rag@1"
    code = "import json; from training.models import *; print(json.dumps(TrainingRun.objects.get().curve))"
    curve = json.loads(manage("shell", "-v0", "-c", code))
    steps = [point["step"] for point in curve if "train_loss" in point]
    assert steps == sorted(set(steps)) == list(range(1, result["steps"] + 1))


def test_a_distillation_killed_with_minus_nine_repeats_no_more_than_the_calls_that_were_under_way(tmp_path):
    questions, at_once = 40, 4
    code = (
        "from tests.training.chats import logged; from agents.services import agents_register_defaults;"
        "from agents.selectors import live_variant; agents_register_defaults(); one = live_variant('hybrid_rag');"
        f"[logged(one, f'When was bridge number {{n}} built?', 'I think 1950.') for n in range({questions})]"
    )
    good = answer("1701")

    def slow(handler, body):
        time.sleep(0.05)
        good(handler, body)

    with serving() as server:
        server.behaviours = [slow]
        site = Site(tmp_path / "site", ADAPTRAG_TEACHER_MODEL="tiny", OPENAI_BASE_URL=server.url)
        for words in (("migrate", "-v0"), ("shell", "-v0", "-c", code)):
            done = site.manage(*words)
            assert done.returncode == 0, done.stderr
        words = [sys.executable, "manage.py", "distill_teacher", "--concurrency", str(at_once)]
        process = subprocess.Popen(words, cwd=ROOT, env=site.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: len(server.requests) >= questions // 2, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        result = site.must("distill_teacher", "--resume", "1")
    served = Counter(body["messages"][-1]["content"] for body in server.requests)
    assert (result["asked"], len(served)) == (questions, questions)
    assert max(served.values()) <= 2
    assert sum(count > 1 for count in served.values()) <= at_once


def test_the_shipped_model_learns_in_a_few_steps_to_answer_short(tmp_path):
    from agents.llm.engine import Engine
    from agents.llm.weights import default_folder
    from tests.agents.test_llm_adapters import Asked

    model = default_folder()
    recipe = Recipe(steps=6, batch=4, micro=4, learning_rate=2e-3, warmup=0.0, threads=1)
    out = train_lora(model, chats(24), [], tmp_path, recipe)
    engine = Engine(model, threads=1)
    try:
        engine.load_adapter("trained", out.path)
        question = chat("Kilmartin", 77)[1]["content"]
        answers = {}
        for name in ("", "trained"):
            asked = Asked(engine, question, name)
            asked.wait()
            answers[name] = asked.text.strip()
    finally:
        engine.close()
    assert answers["trained"] == "1777" != answers[""]
