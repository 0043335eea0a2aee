import time

import pytest

from agents.classifier import CATEGORIES, classify, scores

# Written for this test, four a category, none used while the rules were written.
EXAMPLES = {
    "factual": [
        "Who signs off expense reports above 5,000 euros?",
        "What is the default port of the web server?",
        "How many days of parental leave are granted?",
        "When was the Lisbon office opened?",
    ],
    "analytical": [
        "Why did churn rise in the second quarter?",
        "Compare the on-premise plan with the hosted one.",
        "What are the trade-offs of storing vectors in float16?",
        "How did the new pricing affect renewals?",
    ],
    "relational": [
        "What is the relationship between the billing service and the ledger?",
        "Are Ada Lovelace and Charles Babbage both mentioned in the report?",
        "Which services depend on the message broker?",
        "How is the audit team connected to the risk committee?",
    ],
    "procedural": [
        "How do I rotate the signing key?",
        "What are the steps to request a new laptop?",
        "How can we restore a deleted project?",
        "Configure single sign-on for a tenant",
    ],
    "vague": ["help", "tell me more about it", "any ideas?", "what about that?"],
    "visual": [
        "What does the diagram on page 3 show?",
        "Which colour is the line for 2024 in the chart?",
        "What does the new logo look like?",
        "Describe the screenshot of the settings page",
    ],
}


@pytest.mark.parametrize(("category", "question"), [(c, q) for c, questions in EXAMPLES.items() for q in questions])
def test_a_plain_question_of_each_kind_is_recognised(category, question):
    assert classify(question) == category, scores(question)


@pytest.mark.parametrize("question", ["?", "…", "a", "的", "x" * 100_000, "who " * 20_000, "(" * 5_000, "both " * 2_000])
def test_any_text_gets_a_category_in_bounded_time(question):
    begun = time.perf_counter()
    assert classify(question) in CATEGORIES
    # The bound guards against catastrophic backtracking (minutes), not against a slow machine.
    assert time.perf_counter() - begun < 5


def test_an_unknown_kind_of_question_is_factual():
    assert classify("Population of the two largest ports in Norway") == "factual"
