"""Training of models of a few kilobytes: what is learned, resumed, refused."""

import math
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from agents.llm.adapters import WEIGHTS
from tests.agents.tiny_chat import make
from tests.training.chats import chats, uneven
from training.encoding import IGNORED, Encoder, collate, schedule
from training.errors import NothingToLearn, TrainingFailed
from training.lora import newest_checkpoint, train_lora
from training.recipe import Recipe
from training.trainer import answer_loss

FAST = {"steps": 6, "batch": 4, "micro": 2, "every": 2, "threads": 1, "patience": 0}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 without a chat template."""
    return make(tmp_path_factory.mktemp("models") / "gpt2", "gpt2", template=None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "llama")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_loss_falls_and_the_adapter_is_safetensors(kind, request, tmp_path):
    points = []
    recipe = Recipe(**FAST | {"steps": 12, "learning_rate": 0.01, "warmup": 0.0, "schedule": "constant"})
    out = train_lora(request.getfixturevalue(kind), chats(40), chats(4), tmp_path, recipe, on_point=points.append)
    losses = [point.train_loss for point in points if point.train_loss is not None]
    assert len(losses) == out.steps == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert out.validation_loss == pytest.approx(
        min(point.validation_loss for point in points if point.validation_loss), abs=1e-4
    )
    assert load_file(out.path / WEIGHTS)
    assert out.tokens_per_second > 0 < out.peak_memory_bytes


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_ends_as_an_uninterrupted_one(llama, tmp_path):
    recipe = Recipe(**FAST)
    whole = train_lora(llama, chats(20), [], tmp_path / "whole", recipe)

    def kill(point):
        if point.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train_lora(llama, chats(20), [], tmp_path / "killed", recipe, on_point=kill)
    assert newest_checkpoint(tmp_path / "killed").endswith("checkpoint-4")
    steps = []
    resumed = train_lora(llama, chats(20), [], tmp_path / "killed", recipe, on_point=lambda point: steps.append(point.step))
    assert steps == [5, 6]
    one, other = load_file(whole.path / WEIGHTS), load_file(resumed.path / WEIGHTS)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path):
    for step, whole in ((2, True), (10, True), (12, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "complete").touch()
    assert newest_checkpoint(tmp_path).endswith("checkpoint-10")


def test_it_stops_early_and_keeps_the_best_weights(gpt2, tmp_path):
    recipe = Recipe(**FAST | {"steps": 30, "every": 1, "patience": 2, "learning_rate": 0.05, "warmup": 0.0})
    otherwise = [[*chat[:2], {"role": "assistant", "content": "~~~~~~"}] for chat in chats(4)]
    out = train_lora(gpt2, chats(8), otherwise, tmp_path, recipe)
    assert out.best_step < out.steps < 30


def test_a_resumed_run_remembers_how_long_validation_has_not_improved(gpt2, tmp_path):
    recipe = Recipe(**FAST | {"steps": 30, "every": 1, "patience": 3, "learning_rate": 0.05, "warmup": 0.0})
    otherwise = [[*chat[:2], {"role": "assistant", "content": "~~~~~~"}] for chat in chats(4)]
    whole = train_lora(gpt2, chats(8), otherwise, tmp_path / "whole", recipe)

    def kill(step):
        if step == whole.steps - 1:
            raise Killed

    with pytest.raises(Killed):
        train_lora(gpt2, chats(8), otherwise, tmp_path / "killed", recipe, on_checkpoint=kill)
    resumed = train_lora(gpt2, chats(8), otherwise, tmp_path / "killed", recipe)
    assert (resumed.steps, resumed.best_step) == (whole.steps, whole.best_step)
    assert whole.best_step < whole.steps - 1


def test_a_run_resumed_with_smaller_portions_ends_as_an_uninterrupted_one(llama, tmp_path):
    recipe = Recipe(**FAST)
    whole = train_lora(llama, uneven(20), [], tmp_path / "whole", recipe)

    def kill(point):
        if point.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train_lora(llama, uneven(20), [], tmp_path / "killed", recipe, on_point=kill)
    resumed = train_lora(llama, uneven(20), [], tmp_path / "killed", replace(recipe, micro=1))
    one, other = load_file(whole.path / WEIGHTS), load_file(resumed.path / WEIGHTS)
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_speed_is_by_the_wall_clock_validation_and_checkpoints_included(llama, tmp_path):
    recipe = Recipe(**FAST | {"every": 1})
    points = []

    def slowly(step):
        time.sleep(0.1)

    out = train_lora(llama, chats(8), chats(4), tmp_path, recipe, on_point=points.append, on_checkpoint=slowly)
    assert out.tokens / out.tokens_per_second > 0.1 * out.steps
    assert next(point.seconds_left for point in points if point.step == 3 and point.train_loss) > 0.2


def test_a_loss_that_is_no_number_fails_with_the_remedy(llama, tmp_path):
    weights = load_file(llama / "model.safetensors")
    broken = make(tmp_path / "broken")
    from safetensors.torch import save_file

    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingFailed, match="another training with a lower --learning-rate"):
        train_lora(broken, chats(8), [], tmp_path / "out", Recipe(**FAST))


@pytest.mark.parametrize(
    ("examples", "micro", "words"),
    [(uneven(4), 2, "one example of .* shorter examples"), (chats(4), 2, "2 examples .* --micro 1")],
)
def test_memory_that_runs_out_names_the_largest_portion_and_what_helps(llama, tmp_path, monkeypatch, examples, micro, words):
    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr("training.lora._run", out_of_memory)
    with pytest.raises(TrainingFailed, match=words):
        train_lora(llama, examples, [], tmp_path, Recipe(**FAST | {"micro": micro}))


def test_the_learning_rate_follows_width_and_scale_unless_it_is_given():
    assert Recipe().rate(2000) == pytest.approx(1e-3)
    assert Recipe().rate(576) == pytest.approx(2.64e-3, rel=2e-3)
    assert Recipe(r=64).rate(2000) == pytest.approx(1e-3 / 8)  # alpha 128, where the source has 32
    assert Recipe(r=64, alpha=16).rate(2000) == Recipe().rate(2000)
    assert Recipe(r=64, alpha=4, rank_stabilized=True).rate(2000) == pytest.approx(5e-4)
    assert Recipe(learning_rate=0.5).rate(2000) == 0.5


def test_examples_over_the_window_are_skipped_and_counted(gpt2, tmp_path):
    long = chats(1)[0]
    long[1] = {"role": "user", "content": "word " * 200}
    out = train_lora(gpt2, [*chats(8), long], [], tmp_path, Recipe(**FAST | {"steps": 1}))
    assert out.skipped == 1
    with pytest.raises(NothingToLearn, match="window of 512"):
        train_lora(gpt2, [long], [], tmp_path / "none", Recipe(**FAST))


def test_a_model_with_a_window_of_1024_tokens_trains_up_to_its_last_place(tmp_path):
    model = make(tmp_path / "model", "gpt2", template=None, n_positions=1024)
    assert Encoder(model).window == 1024
    base = len(Encoder(model).encode(_padded(0)))
    whole, over = _padded(1024 - base), _padded(1025 - base)
    out = train_lora(model, [whole, over], [], tmp_path / "out", Recipe(**FAST | {"steps": 1, "batch": 1, "micro": 1}))
    assert (out.skipped, out.steps, out.tokens) == (1, 1, 1024)
    assert math.isfinite(out.train_loss)


def _padded(words):
    one = chats(1)[0]
    return [*one[:1], {"role": "user", "content": "x" * words}, one[2]]


def test_qlora_without_a_gpu_says_what_to_do(llama, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingFailed, match="leave it out"):
        train_lora(llama, chats(8), [], tmp_path, Recipe(**FAST | {"quantized": True}))


def test_the_loss_counts_answers_only_and_padding_changes_nothing(llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama)
    encoder = Encoder(llama)
    examples = [
        encoder.encode(chat) for chat in (chats(1)[0], [*chats(2)[1][:2], {"role": "assistant", "content": "Long ago."}])
    ]

    def loss(batch):
        labels = batch.pop("labels")
        return float(answer_loss(model(**batch), labels, 1).detach())

    reference = 0.0
    for example in examples:
        ids = torch.tensor([example.prompt + example.answer])
        labels = torch.tensor([[IGNORED] * len(example.prompt) + list(example.answer)])
        reference += float(model(input_ids=ids, labels=labels).loss.detach()) * len(example.answer)
    assert loss(collate(examples)) == pytest.approx(reference, rel=1e-4)
    assert math.isclose(sum(loss(collate([one])) for one in examples), reference, rel_tol=1e-4)


def test_a_prompt_is_encoded_as_it_is_when_served(gpt2):
    from agents.llm.base import Message
    from agents.llm.prompts import ChatPrompts

    messages = chats(1)[0]
    served = ChatPrompts(gpt2).encode([Message(**message) for message in messages[:-1]])
    encoded = Encoder(gpt2).encode(messages)
    assert list(encoded.prompt) == served
    assert encoded.answer[-1] == 0  # the token that ends it


def test_the_schedule_repeats_itself_and_uses_every_example_once_a_pass():
    lengths = [7, 3, 9, 1, 5, 2, 8, 4, 6, 10]
    rows = list(schedule(lengths, steps=5, batch=4, micro=2, seed=3))
    assert rows == list(schedule(lengths, steps=5, batch=4, micro=2, seed=3))
    assert rows != list(schedule(lengths, steps=5, batch=4, micro=2, seed=4))
    assert len({index for row in rows[:4] for index in row}) == 8  # no example twice before all were seen
    for at in range(0, 10, 2):
        step = [lengths[index] for row in rows[at : at + 2] for index in row]
        assert step == sorted(step)
