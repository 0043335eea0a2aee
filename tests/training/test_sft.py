"""Who goes into a dataset, with which target, and what is told of the others."""

import pytest

from training.sft import Candidate, Filters, grouped, scrubbed, select


def candidate(key, question, answer="", **values):
    def prompt(passages):
        text = "\n\n".join(["A passage of ten words, no more and no less."] * passages)
        return [{"role": "user", "content": f"{text}\n\nQuestion: {question}"}]

    return Candidate(key=key, question=question, answer=answer, **{"passages": 1, "prompt": prompt} | values)


def words(chat):
    return sum(len(message["content"].split()) for message in chat)


def picked(candidates, *, reserved=(), **filters):
    return {one.key: one for one in select(candidates, Filters(**{"validation": 0.0} | filters), words, reserved)}


def test_a_correction_comes_before_the_answer_and_that_before_the_teachers():
    one = candidate("a", "Who built it?", "Anna", reward=0.9, ratings=1, corrections=("Bert",), teacher="Carl")
    assert picked([one])["a"].target == "Bert"
    assert picked([one], source="best")["a"].target == "Anna"
    assert picked([one], source="teacher")["a"].target == "Carl"
    assert picked([candidate("b", "Who?", "Anna", reward=0.2, teacher="Carl")])["b"].target == "Carl"


def test_an_answer_rated_too_low_is_left_out_with_its_rating():
    found = picked([candidate("a", "Who built it?", "Anna", reward=0.5)], min_reward=0.8)["a"]
    assert (found.split, found.reason) == ("left_out", "Its rating 0.50 is under 0.8, and it has no other target.")


@pytest.mark.parametrize("source", ["best", "all"])
def test_the_same_question_is_taken_once_with_the_best_rated_answer(source):
    found = picked(
        [
            candidate("a", "Who built the old stone bridge?", "Anna Stone", reward=1.0),
            candidate("b", "who built the OLD stone bridge", "Bert", reward=0.8),
            candidate("c", "Who built the old stone bridge ?", "bert", reward=0.85),
        ],
        source=source,
    )
    assert {one.key: one.split for one in found.values()} == {"a": "train", "b": "left_out", "c": "left_out"}
    assert (found["a"].target, found["a"].reward) == ("Anna Stone", 1.0)


def test_among_answers_rated_alike_the_one_that_most_gave_is_taken_and_then_the_newest():
    question = "Who built the old stone bridge?"
    texts = {"a": "Anna", "b": "Bert", "c": "anna", "d": "Carl"}
    found = picked([candidate(key, question, text, reward=0.9) for key, text in texts.items()])
    assert [one.target for one in found.values() if one.split == "train"] == ["anna"]
    found = picked([candidate(key, question, text, reward=0.9) for key, text in texts.items() if key != "c"])
    assert [one.target for one in found.values() if one.split == "train"] == ["Carl"]


def test_the_same_question_is_taken_once_with_the_correction_most_agree_on():
    found = picked(
        [
            candidate("a", "Who built the old stone bridge?", corrections=("Anna Stone",)),
            candidate("b", "who built the OLD stone bridge", corrections=("Bert",)),
            candidate("c", "Who built the old stone bridge ?", corrections=("anna stone",)),
        ]
    )
    kept = [one for one in found.values() if one.split == "train"]
    assert [one.target for one in kept] == ["anna stone"]
    assert all("better target" in one.reason for one in found.values() if one.split == "left_out")


def test_questions_that_differ_in_a_number_or_a_name_are_two():
    assert len(set(grouped(["Who won the cup in 1998?", "Who won the cup in 1999?"]))) == 2
    assert len(set(grouped(["What is the capital of France?", "What is the capital of Spain?"]))) == 2
    assert len(set(grouped(["What is the capital of France?", "what's the capital of france", "Capital of France?"]))) == 1


def test_near_sameness_found_by_rare_words_is_that_of_comparing_all():
    import itertools
    import random

    from training.sft import _alike, _words

    generator = random.Random(5)
    vocabulary = [f"w{number}" for number in range(30)]
    questions = [" ".join(generator.sample(vocabulary, generator.randint(5, 9))) for _ in range(60)]
    questions += [" ".join(question.split()[::-1]) for question in questions[:20]]
    parent = list(range(len(questions)))

    def root(index):
        while parent[index] != index:
            index = parent[index]
        return index

    for one, other in itertools.combinations(range(len(questions)), 2):
        if _alike(_words(questions[one]), _words(questions[other])):
            parent[root(one)] = root(other)
    truth = {frozenset(i for i in range(len(questions)) if root(i) == group) for group in map(root, range(len(questions)))}
    found = grouped(questions)
    assert {frozenset(i for i, group in enumerate(found) if group == value) for value in found} == truth


def test_no_question_of_an_eval_set_enters():
    found = picked([candidate("a", "Who built the bridge?", corrections=("Anna",))], reserved=["who built the bridge"])["a"]
    assert found.split == "left_out"
    assert "eval set" in found.reason


def test_the_split_keeps_the_forms_of_a_question_together_and_stays_as_the_log_grows():
    first = [candidate(str(number), f"What is the length of river R{number} now?", corrections=("1",)) for number in range(200)]
    more = [candidate(f"x{number}", f"Where is the town T{number} exactly?", corrections=("1",)) for number in range(100)]
    before = picked(first, validation=0.1)
    after = picked([*first, *more], validation=0.1)
    assert {key: one.split for key, one in before.items()} == {key: after[key].split for key in before}
    assert 5 <= sum(one.split == "validation" for one in before.values()) <= 40


def test_too_long_prompts_lose_their_last_passages_and_say_so():
    found = picked([candidate("a", "Who?", corrections=("Anna",), passages=3)], window=25)["a"]
    assert (found.tokens <= 25, found.note) == (True, "cut to 2 of 3 passages")
    assert "over the student's window of 5" in picked([candidate("a", "Who?", corrections=("A",))], window=5)["a"].reason


def test_without_passages_there_is_nothing_to_learn_from():
    assert picked([candidate("a", "Who?", corrections=("A",), passages=0)])["a"].reason == "No passage stood in its prompt."


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("write to anna.b@example.org today", "write to [email] today"),
        ("use sk-abcdefghijklmnopqrstuv now", "use [key] now"),
        ("postgresql://anna:pa55@db/x", "postgresql://[password]@db/x"),
        ("password: hunter2", "password:[password]"),
        ("a ratio of 3:4, Bridge@Work", "a ratio of 3:4, Bridge@Work"),
    ],
)
def test_secrets_and_addresses_are_replaced_and_nothing_else(text, clean):
    assert scrubbed(text)[0] == clean


def test_an_answer_that_is_an_address_is_left_out():
    found = picked([candidate("a", "How do I reach Anna?", corrections=("anna@example.org",))])["a"]
    assert "scrubbed" in found.reason
