"""`ask "question"`: one question, routed or put to a named agent, from the command line."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from adaptrag.orchestrator import QueryRequest, query
from agents.commands import AskingCommand


class Command(AskingCommand):
    help = "Ask a question; the bandit picks the agent unless --agent names one."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("question")
        parser.add_argument("--agent", help="put the question to this agent")
        parser.add_argument("--collection", help="search this collection")
        parser.add_argument("--category", help="take this category instead of the classifier's")
        parser.add_argument("--top-k", type=int, help="passages to retrieve (5)")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        self.have_agents()
        result = query(
            QueryRequest(
                question=options["question"],
                agent=options["agent"],
                collection=options["collection"],
                category=options["category"],
                top_k=options["top_k"],
            )
        )
        return result.as_dict()

    def show(self, result: dict[str, Any]) -> None:
        propensity = result["routing"]["propensity"]
        how = (
            "named by you"
            if propensity is None
            else f"picked with probability {propensity:.2f} for {result['category']} questions"
        )
        self.stdout.write(result["answer"] or "(the model gave an empty answer)")
        self.stdout.write(f"\n{result['agent']} r{result['revision']}, {how}; {result['latency_ms'] / 1000:.1f} s")
        if fallback := result["fallback"]:
            self.stdout.write(f"Answered by {fallback['to']} in place of {fallback['from']}: {fallback['reason']}")
        for number, source in enumerate(result["sources"], 1):
            place = f", page {source['page']}" if source["page"] else ""
            heading = f": {source['heading']}" if source["heading"] else ""
            self.stdout.write(
                f"  [{number}] {source['document']}{heading}{place}{'' if source['used'] else ' (not in the prompt)'}"
            )
        self.stdout.write(f"\nRate it: python manage.py feedback {result['interaction_id']} 1")
