"""Adapters beside one copy of their model: what they compute is what the merged model computes, alone and in a mixed batch."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.errors import ChatModelUnavailable
from agents.llm.adapters import CONFIG, WEIGHTS, folder_name, read_adapter
from agents.llm.engine import Engine
from agents.llm.engines import Engines
from agents.llm.openai_compatible import OpenAICompatibleChatModel
from agents.llm.sampling import Sampling
from tests.agents.faulty_server import answer, failing, send, serving
from tests.agents.tiny_chat import Answer, ask, make

QUESTIONS = ["Which river?", "word " * 40, "7"]


def adapter(base, out, seed, *, merged=None):
    """A LoRA of random weights over all layers, strong enough to change answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    network = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(seed)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    network.save_pretrained(out)
    if merged:
        network.merge_and_unload().save_pretrained(merged)
        AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return out


class Asked(Answer):
    def __init__(self, engine, text, name):
        import queue

        self._events, self.pieces = queue.SimpleQueue(), []
        self.generation = engine.submit(ask(text), Sampling(max_tokens=16), self._events.put, timeout=60, adapter=name)


def _texts(engine, asked):
    answers = [Asked(engine, text, name) for text, name in asked]
    for one in answers:
        one.wait()
    return [one.text for one in answers]


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def models(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    base = make(folder / "base", request.param)
    adapter(base, folder / "one", 1, merged=folder / "merged")
    adapter(base, folder / "two", 2)
    return folder


@pytest.fixture
def engine(models):
    engine = Engine(models / "base", form="fp32", threads=1)
    engine.load_adapter("one", models / "one")
    engine.load_adapter("two", models / "two")
    yield engine
    engine.close()


def test_an_adapter_answers_as_the_merged_model_does(models, engine):
    merged = Engine(models / "merged", form="fp32", threads=1)
    try:
        assert _texts(engine, [(text, "one") for text in QUESTIONS]) == _texts(merged, [(text, "") for text in QUESTIONS])
    finally:
        merged.close()
    assert _texts(engine, [(QUESTIONS[0], "")]) != _texts(engine, [(QUESTIONS[0], "one")])


def test_a_batch_of_several_adapters_gives_each_what_it_gets_alone(engine):
    asked = [(text, name) for text in QUESTIONS for name in ("one", "", "two")]
    alone = [_texts(engine, [one])[0] for one in asked]
    assert _texts(engine, asked) == alone
    assert len(set(alone)) == len(asked)


def test_int8_weights_take_the_same_adapter(tmp_path):
    base = make(tmp_path / "base")
    adapter(base, tmp_path / "one", 1, merged=tmp_path / "merged")
    engine = Engine(base, form="int8", threads=1)
    reference = Engine(tmp_path / "merged", form="fp32", threads=1)
    try:
        engine.load_adapter("one", tmp_path / "one")
        found = _texts(engine, [(QUESTIONS[0], "one")])[0]
        assert found[:4] == _texts(reference, [(QUESTIONS[0], "")])[0][:4] != _texts(engine, [(QUESTIONS[0], "")])[0][:4]
    finally:
        engine.close()
        reference.close()


def test_an_adapter_of_another_model_is_refused(models, tmp_path, engine):
    other = make(tmp_path / "other", "gemma2")
    with pytest.raises(ChatModelUnavailable, match="Name the model that it was trained on"):
        engine.load_adapter("strange", adapter(other, tmp_path / "strange", 1))


@pytest.mark.parametrize("broken", ["missing", "config", "nan", "dora"])
def test_what_is_no_plain_adapter_is_refused_in_words(models, tmp_path, broken):
    folder = tmp_path / "adapter"
    if broken != "missing":
        folder.mkdir()
        config = json.loads((models / "one" / CONFIG).read_text())
        weights = load_file(models / "one" / WEIGHTS)
        if broken == "nan":
            next(iter(weights.values()))[0, 0] = float("nan")
        save_file(weights, folder / WEIGHTS)
        (folder / CONFIG).write_text("{" if broken == "config" else json.dumps(config | {"use_dora": broken == "dora"}))
    with pytest.raises(ChatModelUnavailable):
        read_adapter("one", folder)


def test_a_name_stands_for_one_folder_for_good(models):
    engines = Engines()
    try:
        engines.load_adapter("a-1", models / "one", str(models / "base"))
        engines.load_adapter("a-1", models / "one", str(models / "base"))
        assert engines.find("a-1")[1] == "a-1"
        with pytest.raises(ChatModelUnavailable, match="never used again"):
            engines.load_adapter("a-1", models / "two", str(models / "base"))
    finally:
        engines.close()


def test_a_folders_name_follows_its_content(models, tmp_path):
    assert folder_name(models / "one") != folder_name(models / "two")
    with pytest.raises(ChatModelUnavailable):
        folder_name(tmp_path)


# On an OpenAI-compatible server -----------------------------------------------------------------------------------------

OPTIONS = {"adapter": {"name": "lora-1-abc", "path": "/data/lora-1-abc"}, "timeout": 20}


def _loaded(handler, body):
    send(handler, 200, {"loaded": body["lora_name"]})


def _chat(server):
    return OpenAICompatibleChatModel("base", OPTIONS | {"base_url": server.url}, api_key="k")


def test_a_server_loads_the_adapter_once_and_is_asked_by_its_name():
    with serving() as server:
        server.behaviours = [_loaded, answer("Paris.")]
        chat = _chat(server)
        assert [chat.complete(ask("Which?")).text for _ in range(2)] == ["Paris.", "Paris."]
    load, *questions = server.requests
    assert (load["lora_name"], load["lora_path"], load["base_model"]) == ("lora-1-abc", "/data/lora-1-abc", "base")
    assert [question["model"] for question in questions] == ["lora-1-abc"] * 2


def test_a_server_that_has_it_already_is_simply_asked():
    with serving() as server:
        server.behaviours = [failing(400, "The lora adapter 'lora-1-abc' has already been loaded."), answer("Paris.")]
        assert _chat(server).complete(ask("Which?")).text == "Paris."


def test_a_server_that_was_started_anew_gets_the_adapter_again():
    with serving() as server:
        server.behaviours = [_loaded, answer("Paris."), failing(404, "no such model"), _loaded, answer("Rome.")]
        chat = _chat(server)
        assert [chat.complete(ask("Which?")).text for _ in range(2)] == ["Paris.", "Rome."]


def test_a_server_that_takes_no_adapters_says_so():
    with serving() as server:
        server.behaviours = [failing(404, "Not Found")]
        with pytest.raises(ChatModelUnavailable, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            _chat(server).complete(ask("Which?"))
    assert len(server.requests) == 1
