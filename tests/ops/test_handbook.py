"""docs/ is the demo's knowledge base: what operators ask is found in it, with the shipped embedding model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.ops.site import ROOT

pytestmark = pytest.mark.slow

# Question -> words of the passage that answers it.
ASKED = {
    "How does AdaptRAG decide which agent answers a question?": "the chance that it is the best one",
    "How do I back up a running site?": "manage.py backup",
    "How do I restore a backup?": "manage.py restore",
    "What is a propensity?": "the probability with which the policy picked",
    "What is a prior?": "evidence that you assume",
    "What is an arm?": "an agent's revision in one category",
    "What does a rating change?": "moves the arm of the agent's revision",
    "Does feedback on compared answers count?": "count for no arm",
    "Port 8000 is already in use, what now?": "PORT=9000 make demo",
    "I lost my API key": "api_key create",
    "How can I use vLLM instead of the shipped model?": "OPENAI_BASE_URL",
    "Which file types can I upload?": "Markdown, plain text, HTML, PDF, DOCX",
    "How do I add a new agent?": "In the admin open Agents, Add",
    "Why is my answer so slow?": "Lower `prompt_passages`",
    "How do I move from SQLite to PostgreSQL?": "dumpdata",
    "How can I import my old reward_log.jsonl?": "manage.py import_log",
    "What happens when the chat model is down?": "status 503",
    "How many ratings does the leaderboard need?": "20 rated answers",
    "How do I stream an answer?": "?stream=1",
    "How do I change the routing policy?": "open Routing policies",
    "How do I delete a document?": "Delete it in the admin",
    "Which environment variable sets the data folder?": "ADAPTRAG_DATA_DIR",
    "How do I roll back an agent?": "press Roll back now",
    "What does error 409 mean?": "nothing_ingested",
}
SEARCH = """
import json, sys
from agents.retrieval.search import retrieve
from agents.selectors import collection_for
collection = collection_for(None)
found = {question: [passage.text for passage in retrieve(collection, question, 3)] for question in json.load(sys.stdin)}
print(json.dumps(found))
"""


def test_what_operators_ask_is_among_the_three_passages_of_the_prompt(handbook):
    code = f"import django; django.setup()\n{SEARCH}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(list(ASKED)),
        env=handbook.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    missed = {question: words for question, words in ASKED.items() if not any(words in text for text in found[question])}
    assert missed == {}, {question: found[question] for question in missed}
