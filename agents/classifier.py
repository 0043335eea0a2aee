"""Question -> category, by rules: no model call, tens of microseconds.

The categories name what a question asks of retrieval, because that is what separates the agents: one fact, an explanation,
a link between things, a procedure, something to look at, or too little to go by.
"""

from __future__ import annotations

import re
from functools import lru_cache

CATEGORIES: tuple[str, ...] = ("factual", "analytical", "relational", "procedural", "vague", "visual")


def _any(*alternatives: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(alternatives) + r")\b", re.IGNORECASE)


# (category, weight, pattern). Weights order evidence by how seldom it misleads: a question that names a diagram is visual
# even if it begins with "how", and "how do I" is a procedure even if the word "difference" follows.
_RULES: tuple[tuple[str, float, re.Pattern[str]], ...] = (
    ("visual", 4.0, _any(r"(?:in|on|from) th(?:e|is) (?:image|picture|photo|figure|diagram|chart|graph|screenshot|drawing|map)")),
    ("visual", 3.0, _any(r"images?", r"pictures?", r"photos?", r"photographs?", r"figures? \d+", r"diagrams?", r"screenshots?",
                         r"illustrations?", r"infographics?", r"depicted", r"look(?:s|ed)? like")),
    ("visual", 1.5, _any(r"colou?rs?", r"charts?", r"plotted", r"drawn", r"logo", r"shown (?:in|on)")),
    ("procedural", 3.5, _any(r"how (?:do|can|could|should|would|must|may|might) (?:i|we|you|one|they|someone)", r"how to",
                             r"step[- ]by[- ]step", r"what (?:are|is) the (?:steps?|procedure|process|instructions?)",
                             r"walk me through", r"show me how")),
    ("procedural", 2.0, _any(r"steps", r"instructions?", r"tutorial", r"procedure", r"guide me", r"set(?:ting)? up", r"troubleshoot")),
    ("procedural", 1.2, re.compile(
        r"^\s*(?:please\s+)?(?:install|configure|set up|deploy|enable|disable|create|add|remove|delete|restore|back up|upgrade|"
        r"reset|fix|register|upload|run|start|stop|change)\b", re.IGNORECASE)),
    ("relational", 3.5, _any(r"relation(?:ship)?s? (?:between|of|to|with)", r"related to", r"connect(?:ed|ion|ions|s)? (?:to|between|with)",
                             r"link(?:ed|s)? (?:to|between|with)", r"associated with", r"interact(?:s|ion|ions)? (?:with|between)",
                             r"depend(?:s|ed|encies)? (?:on|between)", r"in common", r"correlat\w+")),
    ("relational", 2.2, _any(r"both .{2,80} and", r"the same .{1,60} as", r"(?:are|were|is|was|do|did|does|have|has) .{2,80} (?:both|the same|each other)",
                             r"which (?:of|one|person|film|band|company|city).{1,80} or", r"who .{1,40} (?:married|succeeded|founded by)",
                             r"belongs? to", r"part of", r"member of", r"parent of", r"child of", r"sibling", r"between .{2,60} and")),
    # A bridge question: the thing asked about is described through another thing ("the director of the film that won ...").
    ("relational", 1.8, re.compile(r"\b(?:of|by|in) (?:the|a|an) [^?]{3,60}\b(?:that|which|who|whose|where)\b", re.IGNORECASE)),
    ("analytical", 3.0, re.compile(r"^\s*(?:(?:and|so|but)\s+)?why\b", re.IGNORECASE)),
    ("analytical", 3.0, _any(r"compare[ds]?", r"comparison", r"contrast", r"differ(?:s|ence|ences|ent)?", r"versus", r"vs", r"pros and cons",
                             r"advantages?", r"disadvantages?", r"trade-?offs?", r"analy[sz]e", r"evaluate", r"assess", r"implications?",
                             r"consequences?", r"reasons?", r"better than", r"worse than", r"when should")),
    ("analytical", 2.2, _any(r"explain", r"how does", r"how do", r"how did", r"impact", r"effects? of", r"affect(?:s|ed)?", r"influenced?",
                             r"causes?d?", r"trends?", r"significance", r"role of", r"what happens (?:if|when)", r"interpret", r"summari[sz]e",
                             r"mechanisms?", r"why")),
    ("factual", 2.0, re.compile(r"^\s*(?:(?:and|in|on|at|for|from|by|to)\s+)?(?:who|whom|whose|when|where|which|what)\b", re.IGNORECASE)),
    ("factual", 2.3, _any(r"how (?:many|much|long|old|tall|far|often|large|big|high|deep|fast|wide)", r"what (?:year|date|time|is the name)",
                          r"name of", r"define", r"definition")),
    ("factual", 1.2, re.compile(r"^\s*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would)\b", re.IGNORECASE)),
    ("vague", 2.5, _any(r"tell me (?:something|more|about)", r"anything about", r"something about", r"what about", r"stuff", r"and so on",
                        r"any (?:ideas?|thoughts?)", r"help(?: me)?", r"info(?:rmation)?(?: on| about)?")),
)

_STOP = frozenset(
    "a an the of in on at to for from by with and or is are was were be been do does did has have had can could will would should "
    "i we you he she it they this that these those what who when where which why how me my our your please there about any some".split()
)
_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*", re.UNICODE)
_REFERENCE = re.compile(r"\b(?:it|this|that|they|them|these|those|he|she)\b", re.IGNORECASE)


def content_words(text: str) -> list[str]:
    """Words that carry meaning, lower-cased, in order of appearance."""
    return [word for word in (match.group().lower() for match in _WORD.finditer(text)) if word not in _STOP]


@lru_cache(maxsize=4096)
def scores(question: str) -> dict[str, float]:
    """Evidence for each category; the highest wins, ties go to the earlier category of CATEGORIES."""
    question = question[:2000]
    totals = dict.fromkeys(CATEGORIES, 0.0)
    for category, weight, pattern in _RULES:
        if pattern.search(question):
            totals[category] += weight
    words = content_words(question)
    if len(words) <= 1:
        totals["vague"] += 3.0
    elif len(words) == 2 and totals["factual"] == totals["procedural"] == 0.0:
        totals["vague"] += 1.0
    if len(words) <= 2 and _REFERENCE.search(question):
        totals["vague"] += 2.0
    totals["factual"] += 0.5  # what is left when nothing else speaks
    return totals


def classify(question: str) -> str:
    """The category of a question.

    >>> classify("How do I back up the data folder?")
    'procedural'
    >>> classify("What is the relationship between a reward and an arm?")
    'relational'
    """
    totals = scores(question)
    return max(CATEGORIES, key=lambda category: totals[category])
