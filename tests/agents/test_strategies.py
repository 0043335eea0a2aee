"""One contract for every strategy, then what each promises of its own."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from django.conf import settings

from adaptrag.common.errors import InvalidInput, Unavailable
from agents.errors import ChatModelUnavailable, ExternalSearchFailed, NothingIngested
from agents.llm.base import Message
from agents.models import Collection, DerivedIndex
from agents.strategies import STRATEGIES
from agents.strategies.base import AgentAnswer, AgentRequest, Tools
from agents.strategies.corrective_rag import UNKNOWN
from agents.strategies.parent_child_rag import in_reading_order
from agents.strategies.prompt import abstains, answer_messages, search_query, shortened
from tests.agents.doubles import CORPUS, DOWN, Outside, Replies, WordOverlap

QUESTION = "Who is the lighthouse keeper?"
TWO_HOPS = "What is the population where the lighthouse keeper lives?"
# Parameters that make a strategy call the model as often as it may.
THOROUGH = {"agentic_rag": {"critic": "model", "retries": 2}, "corrective_rag": {"grader": "model", "good_words": 1.0}}


def run(name, *replies, question=QUESTION, messages=(), top_k=5, texts=None, external=None, **parameters):
    """Answer with a strategy; returns (draft, tools, pieces streamed, retriever, chat)."""
    pieces: list[str] = []
    retriever, chat = WordOverlap(texts), Replies(*(replies or ("Marta Olsen.",)))
    tools = Tools(
        collection=Collection(name="harbour"), chat=chat, retrieve=retriever, external=external, on_text=pieces.append
    )
    strategy = STRATEGIES[name](STRATEGIES[name].Parameters.from_dict(parameters))
    request = AgentRequest(question=question, collection=Collection(name="harbour"), messages=tuple(messages), top_k=top_k)
    return strategy.answer(request, tools), tools, pieces, retriever, chat


every_strategy = pytest.mark.parametrize("name", sorted(STRATEGIES))


@every_strategy
def test_the_answer_is_streamed_once_and_whole(name):
    draft, _, pieces, _, _ = run(name)
    assert draft.text == "Marta Olsen."
    assert "".join(pieces) == draft.text


@every_strategy
def test_what_stood_in_the_prompt_is_what_is_said_to_have_stood_there(name):
    draft, _, _, _, chat = run(name, top_k=5, prompt_passages=2)
    prompt = chat.prompts[-1][-1].content
    assert 1 <= len(draft.used) <= 2
    for text in CORPUS:
        assert (text in prompt) == (text in {passage.text for passage in draft.used})
    assert {passage.chunk_id for passage in draft.used} <= {passage.chunk_id for passage in draft.passages}


@every_strategy
@pytest.mark.parametrize("question", [QUESTION, TWO_HOPS])
@pytest.mark.parametrize(
    "replies",
    [["Marta Olsen [2]."], ["On Skarv.", "I do not know."], ["I do not know.", "214 people."]],
    ids=("", "worse", "better"),
)
@pytest.mark.parametrize(("top_k", "room"), [(5, 3), (1, 3), (3, 2)])
def test_the_nth_source_is_what_the_answer_cites_as_n(name, question, replies, top_k, room):
    draft, tools, _, _, chat = run(name, *replies, question=question, top_k=top_k, prompt_passages=room)
    answer = AgentAnswer(
        text=draft.text, passages=tuple(draft.passages), used=tuple(one.chunk_id for one in draft.used), trace=(),
        usage=tools.usage, model="", fallback=None, latency_ms=0.0,
    )  # fmt: skip
    kept = [prompt[-1].content for prompt, reply in zip(chat.prompts, chat.given, strict=True) if reply == draft.text]
    shown = re.findall(r"^\[(\d+)\] .*\n(.*)", kept[-1] if kept else "", re.MULTILINE)
    assert [(int(number), text) for number, text in shown] == [
        (number, source["text"]) for number, source in enumerate(answer.sources, start=1) if source["used"]
    ]
    assert len(answer.sources) == len(answer.passages)
    assert shown or draft.text == UNKNOWN


@every_strategy
def test_every_call_leaves_a_step_that_can_be_stored(name):
    _, tools, _, retriever, chat = run(name)
    steps = [step["step"] for step in tools.trace]
    assert steps.count("retrieve") == len(retriever.calls)
    assert steps.count("chat") == len(chat.prompts)
    assert all(step["ms"] >= 0 and step["at_ms"] >= 0 for step in tools.trace)
    assert json.loads(json.dumps(tools.trace)) == tools.trace
    assert tools.usage.prompt_tokens == 10 * len(chat.prompts)
    assert tools.usage.cost_usd == pytest.approx(0.001 * len(chat.prompts))


@every_strategy
def test_the_trace_has_all_that_the_model_was_told_with_chunks_for_passages(name):
    earlier = [Message(role="user", content="Who keeps the light?"), Message(role="assistant", content="A keeper.")]
    lenient = {"good_words": 0.1} if name == "corrective_rag" else {}
    _, tools, _, _, chat = run(name, messages=earlier, instructions="Answer like a sailor.", **lenient)
    steps = [step for step in tools.trace if step["step"] == "chat"]
    assert [len(step["messages"]) for step in steps] == [len(prompt) for prompt in chat.prompts]
    assert steps[-1]["messages"][:3] == [
        {"role": "system", "content": "Answer like a sailor."}, *({"role": one.role, "content": one.content} for one in earlier)
    ]  # fmt: skip
    last = steps[-1]["messages"][-1]["content"]
    assert last.endswith(f"Question: {QUESTION}")
    assert "⟨chunk 2⟩" in last
    assert not any(text in last for text in CORPUS)


def test_a_long_prompt_is_bounded_in_the_trace():
    _, tools, *_ = run("naive_rag", messages=[Message(role="user", content="word " * 9000)] * 4)
    (step,) = (step for step in tools.trace if step["step"] == "chat")
    assert sum(len(message["content"]) for message in step["messages"]) < 21_000
    assert step["messages"][-1]["content"].endswith(QUESTION)


@every_strategy
def test_an_empty_collection_is_said_and_no_model_is_asked(name):
    with pytest.raises(NothingIngested):
        run(name, texts=[])


@every_strategy
@pytest.mark.parametrize("question", ["漢字 🚢?", "¿Qué?", "‮right to left", "a" * 8000, "<script>alert(1)</script>"])
def test_any_text_can_be_asked(name, question):
    draft, _, pieces, _, chat = run(name, question=question)
    assert draft.text == "".join(pieces)
    assert all(question in prompt[-1].content for prompt in chat.prompts)
    assert chat.prompts or abstains(draft.text)


@every_strategy
def test_a_huge_top_k_gives_what_there_is(name):
    draft, _, _, _, _ = run(name, top_k=50)
    assert len({passage.chunk_id for passage in draft.passages}) == len(draft.passages) <= len(CORPUS)


@every_strategy
@pytest.mark.parametrize("call", range(4))
def test_a_model_that_fails_in_any_call_fails_the_answer_and_leaves_the_trace(name, call):
    """Where the strategy makes fewer calls, it never meets the failure."""
    replies = [*["I do not know."] * call, DOWN]
    chat, retriever = Replies(*replies), WordOverlap()
    tools = Tools(collection=Collection(name="harbour"), chat=chat, retrieve=retriever)
    strategy = STRATEGIES[name](STRATEGIES[name].Parameters.from_dict(THOROUGH.get(name, {})))
    request = AgentRequest(question=TWO_HOPS, collection=Collection(name="harbour"), top_k=1)
    try:
        strategy.answer(request, tools)
    except ChatModelUnavailable as error:
        assert error is DOWN
        assert tools.trace[-1]["error"] == str(DOWN)
    else:
        assert len(chat.prompts) <= call
    assert [step["step"] for step in tools.trace].count("chat") == len(chat.prompts)


@every_strategy
def test_an_index_that_fails_fails_the_answer_and_leaves_the_trace(name):
    def broken(*_, **__):
        raise Unavailable("The index files are missing.")

    tools = Tools(collection=Collection(name="harbour"), chat=Replies("Marta Olsen."), retrieve=broken)
    strategy = STRATEGIES[name](STRATEGIES[name].Parameters())
    with pytest.raises(Unavailable):
        strategy.answer(AgentRequest(question=QUESTION, collection=Collection(name="harbour")), tools)
    assert (tools.trace[-1]["step"], tools.trace[-1]["error"]) == ("retrieve", "The index files are missing.")


@every_strategy
def test_a_strategy_says_what_it_is_for(name):
    strategy = STRATEGIES[name]
    assert strategy.name == name
    assert strategy.title
    assert strategy.summary.endswith(".")
    assert set(strategy.needs) <= set(DerivedIndex.Kind.values)
    for item in dataclasses.fields(strategy.Parameters):
        assert item.metadata["help"].endswith("."), item.name
        assert strategy.Parameters.from_dict({item.name: item.default})


@every_strategy
def test_the_handbook_has_a_section_for_each(name):
    assert f"\n## {name}\n" in (Path(settings.BASE_DIR) / "docs/agents.md").read_text()


@every_strategy
def test_parameters_are_named_when_they_are_wrong(name):
    parameters = STRATEGIES[name].Parameters
    with pytest.raises(InvalidInput, match="'no_such'"):
        parameters.from_dict({"no_such": 1})
    with pytest.raises(InvalidInput, match="'prompt_passages' must lie between 1 and 50, not 0"):
        parameters.from_dict({"prompt_passages": 0})
    with pytest.raises(InvalidInput, match="'max_tokens' must be int, not True"):
        parameters.from_dict({"max_tokens": True})
    with pytest.raises(InvalidInput, match="JSON object"):
        parameters.from_dict([1])


@every_strategy
def test_a_follow_up_searches_with_the_question_before_it(name):
    earlier = [Message(role="user", content="Who is the lighthouse keeper?"), Message(role="assistant", content="Marta Olsen.")]
    _, _, _, retriever, chat = run(name, "Skarv island.", question="Where does she live?", messages=earlier)
    assert retriever.calls[0][0] == "Who is the lighthouse keeper? Where does she live?"
    assert [message.role for message in chat.prompts[-1]] == ["system", "user", "assistant", "user"]


def test_naive_searches_one_index_and_hybrid_both():
    assert run("naive_rag")[3].calls == [(QUESTION, 5, "dense")]
    assert run("naive_rag", retriever="bm25")[3].calls == [(QUESTION, 5, "bm25")]
    assert run("hybrid_rag")[3].calls == [(QUESTION, 5, "hybrid")]


class TestAgentic:
    def test_a_draft_without_gaps_stands(self):
        _, tools, pieces, retriever, chat = run("agentic_rag")
        assert (len(retriever.calls), len(chat.prompts)) == (1, 1)
        assert pieces == ["Marta Olsen."]
        assert [step["step"] for step in tools.trace] == ["retrieve", "chat", "critic"]

    def test_words_that_no_passage_covers_are_searched_for(self):
        draft, _, pieces, retriever, chat = run(
            "agentic_rag", "I do not know.", "214 people.", question=TWO_HOPS, top_k=1, prompt_passages=2
        )
        assert retriever.calls[1][0] == f"{TWO_HOPS} population"
        assert draft.text == "214 people." == "".join(pieces)
        assert CORPUS[2] in chat.prompts[1][-1].content
        assert CORPUS[1] in {passage.text for passage in draft.passages}

    def test_a_refinement_that_knows_less_does_not_replace_the_draft(self):
        draft, _, pieces, _, chat = run("agentic_rag", "On Skarv.", "I do not know.", question=TWO_HOPS, top_k=1)
        assert len(chat.prompts) == 2
        assert draft.text == "On Skarv." == "".join(pieces)

    def test_it_stops_after_the_retries_allowed(self):
        _, _, _, retriever, chat = run(
            "agentic_rag", "I do not know.", question="Which zeppelin crossed Skarv island?", top_k=1, retries=2
        )
        assert len(chat.prompts) <= 3
        assert len(retriever.calls) <= 3

    def test_the_model_can_be_the_critic(self):
        draft, tools, _, retriever, _ = run(
            "agentic_rag", "Marta Olsen.", '"population of Skarv"', "Marta Olsen, 214 people.", critic="model", top_k=1
        )
        assert retriever.calls[1][0] == "population of Skarv"
        assert draft.text == "Marta Olsen, 214 people."
        assert [step.get("purpose") for step in tools.trace if step["step"] == "chat"] == ["draft", "critic", "refine"]

    def test_a_critic_that_is_content_ends_it(self):
        _, _, _, retriever, _ = run("agentic_rag", "Marta Olsen.", "NONE", critic="model")
        assert len(retriever.calls) == 1

    def test_a_model_that_breaks_while_refining_fails_the_answer(self):
        with pytest.raises(ChatModelUnavailable):
            run("agentic_rag", "I do not know.", DOWN, question=TWO_HOPS, top_k=1)


class TestPrompt:
    def test_a_long_passage_is_cut_behind_a_sentence(self):
        text = "One sentence here. " * 40
        cut = shortened(text, 100)
        assert len(cut) <= 100
        assert cut.endswith("here.")

    def test_a_passage_without_sentences_is_cut_between_words(self):
        assert shortened("word " * 100, 52).endswith("word …")

    @pytest.mark.parametrize("text", ["I don't know.", "", "The passages do not contain that.", "No information is given."])
    def test_abstention_is_recognised(self, text):
        assert abstains(text)

    @pytest.mark.parametrize("text", ["Marta Olsen.", "It is known as Skarv.", "No, at five."])
    def test_an_answer_is_no_abstention(self, text):
        assert not abstains(text)

    def test_own_instructions_replace_the_built_in_ones(self):
        parameters = STRATEGIES["hybrid_rag"].Parameters.from_dict({"instructions": "Answer in French."})
        request = AgentRequest(question="?", collection=Collection(name="harbour"))
        assert answer_messages(request, [], parameters)[0].content == "Answer in French."

    def test_a_question_that_stands_alone_is_searched_alone(self):
        request = AgentRequest(
            question="When do the ferries leave in the morning?",
            collection=Collection(name="harbour"),
            messages=(Message(role="user", content="Who is the keeper?"),),
        )
        assert search_query(request) == "When do the ferries leave in the morning?"


class TestUnits:
    def test_sentences_and_children_are_what_is_searched(self):
        window = run("sentence_window_rag", window=3)[3].options[0]["around"]
        assert (window.unit, window.sides) == ("sentence", 3)
        parent = run("parent_child_rag", parent_chars=900)[3].options[0]["around"]
        assert (parent.unit, parent.sides, parent.chars) == ("child", None, 900)

    def test_parents_stand_in_the_prompt_as_in_the_document(self):
        passages = run("hybrid_rag")[0].passages[:3]
        parts = [
            dataclasses.replace(passage, document_id=document, start=start)
            for passage, document, start in zip(passages, (1, 2, 1), (50, 0, 10), strict=True)
        ]
        assert in_reading_order(parts) == [parts[2], parts[0], parts[1]]


class TestHyde:
    def test_it_searches_with_what_it_wrote_and_shows_it(self):
        _, tools, _, retriever, _ = run("hyde_rag", "The keeper is called Ola.", "Marta Olsen.")
        assert retriever.calls == [(QUESTION, 5, "hybrid")]
        assert retriever.options == [{"meanings": (QUESTION, "The keeper is called Ola.")}]
        step = next(step for step in tools.trace if step["step"] == "retrieve")
        assert step["meanings"] == [QUESTION, "The keeper is called Ola."]
        assert [step["purpose"] for step in tools.trace if step["step"] == "chat"] == ["hypothesis", "answer"]

    def test_the_passage_alone(self):
        retriever = run("hyde_rag", "Ola.", "Marta.", with_question=False, retriever="dense")[3]
        assert retriever.calls == [(QUESTION, 5, "dense")]
        assert retriever.options == [{"meanings": ("Ola.",)}]

    def test_a_model_that_writes_nothing_leaves_the_question(self):
        assert run("hyde_rag", "  ", "Marta.", with_question=False)[3].options == [{}]


class TestCorrective:
    def test_bad_passages_are_dropped(self):
        draft, tools, _, retriever, chat = run("corrective_rag")
        assert len(retriever.calls) == 1
        assert [passage.text for passage in draft.passages] == [CORPUS[1]]
        grades = next(step for step in tools.trace if step["step"] == "grade")["grades"]
        assert [one["grade"] for one in grades] == ["good", "bad", "bad", "bad", "bad"]
        assert CORPUS[0] not in chat.prompts[0][-1].content

    def test_weak_evidence_is_searched_for_once_more_in_other_words(self):
        _, tools, _, retriever, _ = run("corrective_rag", question="Where does the harbour captain live?", top_k=1)
        assert len(retriever.calls) == 2
        rewrite = next(step for step in tools.trace if step["step"] == "rewrite")
        assert retriever.calls[1][0] == rewrite["rewritten"] != rewrite["query"]

    def test_it_says_that_it_does_not_know_without_asking_the_model(self):
        draft, tools, pieces, _, chat = run("corrective_rag", question="Which zeppelin crossed Antarctica?")
        assert abstains(draft.text)
        assert "".join(pieces) == draft.text
        assert (draft.passages, chat.prompts) == ([], [])
        assert [step["step"] for step in tools.trace][-2:] == ["external", "verdict"]
        assert "No external search" in tools.trace[-2]["skipped"]

    def test_unclear_passages_alone_are_no_answer_unless_it_may(self):
        question = "Who painted the harbour lighthouse?"
        draft, _, _, _, chat = run("corrective_rag", question=question)
        assert abstains(draft.text)
        assert chat.prompts == []
        assert draft.passages
        draft, _, _, _, chat = run("corrective_rag", question=question, answer_unclear=True)
        assert draft.text == "Marta Olsen."
        assert draft.used

    def test_an_external_search_steps_in_and_is_shown(self):
        outside = Outside([("Airships", "The zeppelin Norge crossed Antarctica."), ("Cooking", "Boil an egg.")])
        draft, tools, _, _, chat = run("corrective_rag", question="Which zeppelin crossed Antarctica?", external=outside)
        assert [passage.url for passage in draft.passages] == ["https://example.org/1"]
        assert "Norge" in chat.prompts[0][-1].content
        step = next(step for step in tools.trace if step["step"] == "external")
        assert [found["url"] for found in step["found"]] == ["https://example.org/1", "https://example.org/2"]

    def test_it_can_be_told_to_stay_inside(self):
        outside = Outside([("Airships", "The zeppelin Norge crossed Antarctica.")])
        draft, _, _, _, _ = run("corrective_rag", question="Which zeppelin?", external=outside, external_search=False)
        assert outside.calls == []
        assert abstains(draft.text)

    def test_an_external_search_that_fails_is_told_in_the_trace(self):
        outside = Outside(ExternalSearchFailed("status 500"))
        draft, tools, _, _, _ = run("corrective_rag", question="Which zeppelin crossed Antarctica?", external=outside)
        assert abstains(draft.text)
        assert next(step for step in tools.trace if step["step"] == "external")["error"] == "status 500"

    def test_good_local_evidence_keeps_the_question_inside(self):
        outside = Outside([])
        run("corrective_rag", external=outside)
        assert outside.calls == []

    def test_the_model_can_grade_and_rewrite(self):
        replies = ("no", "population of Skarv", "yes", "214 people.")
        draft, tools, _, retriever, _ = run(
            "corrective_rag", *replies, question=TWO_HOPS, top_k=1, grader="model", good_words=1.0
        )
        assert [step["purpose"] for step in tools.trace if step["step"] == "chat"] == ["grade", "rewrite", "grade", "answer"]
        assert retriever.calls[1][0] == "population of Skarv"
        assert draft.text == "214 people."
        assert [passage.text for passage in draft.passages] == [CORPUS[2]]

    @pytest.mark.parametrize(
        ("words", "near", "grade"),
        [
            (0.0, 0.6, "good"),
            (0.0, 0.4, "unclear"),
            (0.0, 0.1, "bad"),
            (0.5, 0.1, "unclear"),
            (1.0, 0.1, "good"),
            (0.0, None, "bad"),
        ],
    )
    def test_a_passage_is_graded_by_its_nearness_and_its_words(self, words, near, grade):
        strategy = STRATEGIES["corrective_rag"](STRATEGIES["corrective_rag"].Parameters())
        assert strategy._by_scores(words, near) == grade
