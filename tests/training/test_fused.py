"""Layers in fewer operations compute what peft's do; portions are even."""

import itertools
import math
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.agents.tiny_chat import make
from tests.training.chats import chats
from training.encoding import Encoder, collate, portions
from training.fused import MergedLinear, fuse
from training.recipe import Recipe
from training.trainer import answer_loss


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def model(request, tmp_path_factory):
    return request.param, make(tmp_path_factory.mktemp("models") / request.param, request.param)


def network(folder, **options):
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False,
        fan_in_fan_out=base.config.model_type == "gpt2", **options,
    )  # fmt: skip
    return get_peft_model(base, config).eval()  # GPT-2 has dropout of its own


def batch(folder):
    encoder = Encoder(folder)
    return collate([encoder.encode(messages) for messages in chats(3)])


def gradients(net, inputs):
    labels = inputs["labels"]
    loss = answer_loss(net(**{key: value for key, value in inputs.items() if key != "labels"}), labels)
    net.zero_grad()
    loss.backward()
    return loss.item(), {name: one.grad.clone() for name, one in net.named_parameters() if one.requires_grad}


def test_loss_and_gradients_are_those_of_peft_before_and_after_a_step(model):
    kind, folder = model
    plain, fused = network(folder), network(folder)
    layers = fuse(fused)
    assert (layers > 0) == (kind != "gpt2")  # GPT-2's layers are transposed
    optimizers = [torch.optim.SGD([one for one in net.parameters() if one.requires_grad], lr=0.1) for net in (plain, fused)]
    inputs = batch(folder)
    for _ in range(3):
        (one, expected), (other, found) = gradients(plain, inputs), gradients(fused, inputs)
        assert other == pytest.approx(one, rel=1e-4)
        for name, grad in expected.items():
            assert torch.allclose(found[name], grad, rtol=1e-3, atol=1e-5), name
        for optimizer in optimizers:
            optimizer.step()


def test_layers_with_dropout_or_in_another_precision_stay_as_they_are(model):
    _, folder = model
    assert fuse(network(folder, lora_dropout=0.1)) == 0
    assert fuse(network(folder).to(torch.bfloat16)) == 0


def test_weights_that_are_loaded_into_the_adapter_count_at_once(model):
    kind, folder = model
    if kind == "gpt2":
        pytest.skip("not fused")
    net = network(folder)
    fuse(net)
    inputs = {key: value for key, value in batch(folder).items() if key != "labels"}
    before = net(**inputs).logits
    layer = next(module for module in net.modules() if isinstance(getattr(module, "forward", None), MergedLinear))
    layer.lora_B["default"].load_state_dict({"weight": layer.lora_B["default"].weight + 1})
    assert not torch.allclose(before, net(**inputs).logits)


def test_a_block_that_does_more_and_layers_that_share_a_weight_keep_their_own_way(model):
    kind, folder = model
    if kind == "gpt2":
        pytest.skip("not fused")
    whole = fuse(network(folder))
    net = network(folder)
    layers = net.base_model.model.model.layers
    block = layers[0].mlp
    layers[0].mlp.__class__ = type(
        "ScaledMLP", (type(block),), {"forward": lambda self, x: 0.5 * super(type(self), self).forward(x)}
    )
    for layer in layers:
        layer.self_attn.q_proj.get_base_layer().weight = layers[0].self_attn.q_proj.get_base_layer().weight
    before = net(**{key: value for key, value in batch(folder).items() if key != "labels"}).logits
    assert fuse(net) == whole - len(layers)
    after = net(**{key: value for key, value in batch(folder).items() if key != "labels"}).logits
    assert torch.allclose(before, after, atol=1e-4)


def test_portions_are_as_even_as_can_be():
    generator = random.Random(1)
    for _ in range(200):
        size = generator.randint(1, 8)
        count = generator.randint(1, size)
        lengths = sorted(generator.randint(1, 50) for _ in range(size))
        found = portions(range(size), lengths, count)
        assert len(found) == count
        assert all(found)
        assert [index for row in found for index in row] == list(range(size))
        cuts = itertools.combinations(range(1, size), count - 1)
        best = min(max((b - a) * lengths[b - 1] for a, b in itertools.pairwise((0, *cut, size))) for cut in cuts)
        assert max(len(row) * lengths[row[-1]] for row in found) == best
    with pytest.raises(ValueError, match="2 examples"):
        portions([0, 1], [1, 1], 3)


def test_the_pace_rises_falls_and_is_never_nothing():
    recipe = Recipe(steps=15, warmup=0.1)
    paces = [recipe.pace(step) for step in range(15)]
    assert paces[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert paces[2:] == sorted(paces[2:], reverse=True)
    assert min(paces) > 0
    assert paces[2 + 13 // 2] == pytest.approx((1 + math.cos(math.pi * 6 / 13)) / 2)
    assert {Recipe(steps=5, warmup=0.0, schedule="constant").pace(step) for step in range(5)} == {1.0}
