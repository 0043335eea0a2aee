"""Question -> category, by rules: no model call, tens of microseconds.

The categories name what a question asks of retrieval, because that is what separates the agents: one fact, an explanation,
a link between things, a procedure, something to look at, or too little to go by.
"""

from __future__ import annotations

import re
from functools import lru_cache

CATEGORIES: tuple[str, ...] = ("factual", "analytical", "relational", "procedural", "vague", "visual")


def _any(alternatives: str) -> re.Pattern[str]:
    """Whole words or phrases, any of them, in either case."""
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


# (category, weight, pattern). Weights order evidence by how seldom it misleads: a question that names a diagram is visual
# even if it begins with "how", and "how do I" is a procedure even if the word "difference" follows.
_RULES: tuple[tuple[str, float, re.Pattern[str]], ...] = (
    (
        "visual",
        4.0,
        _any(r"(?:in|on|from) th(?:e|is) (?:image|picture|photo|figure|diagram|chart|graph|screenshot|drawing|map)"),
    ),
    (
        "visual",
        3.0,
        _any(
            r"images?|pictures?|photos?|photographs?|figures? \d+|diagrams?|screenshots?|illustrations?|"
            r"infographics?|depicted|look(?:s|ed)? like"
        ),
    ),
    ("visual", 1.5, _any(r"colou?rs?|charts?|plotted|drawn|logo|shown (?:in|on)")),
    (
        "procedural",
        3.5,
        _any(
            r"how (?:do|can|could|should|would|must|may|might) (?:i|we|you|one|they|someone)|how to|"
            r"step[- ]by[- ]step|what (?:are|is) the (?:steps?|procedure|process|instructions?)|walk me through|"
            r"what should (?:i|we|you) do|show me how"
        ),
    ),
    ("procedural", 2.0, _any(r"steps|instructions?|tutorial|procedure|guide me|set(?:ting)? up|troubleshoot")),
    (
        "procedural",
        1.2,
        re.compile(
            r"^\s*(?:please\s+)?(?:install|configure|set up|deploy|enable|disable|create|add|remove|delete|restore|back up|"
            r"upgrade|reset|fix|register|upload|run|start|stop|change)\b",
            re.IGNORECASE,
        ),
    ),
    (
        "relational",
        3.5,
        _any(
            r"relation(?:ship)?s? (?:between|of|to|with)|related to|"
            r"connect(?:ed|ion|ions|s)? (?:to|between|with)|link(?:ed|s)? (?:to|between|with)|associated with|"
            r"interact(?:s|ion|ions)? (?:with|between)|depend(?:s|ed|encies)? (?:on|between)|in common|"
            r"correlat\w+"
        ),
    ),
    (
        "relational",
        2.2,
        _any(
            r"both .{2,80} and|the same .{1,60} as|"
            r"(?:are|were|is|was|do|did|does|have|has) .{2,80} (?:both|the same|each other)|"
            r"which (?:of|one|person|film|band|company|city).{1,80} or|"
            r"who .{1,40} (?:married|succeeded|founded by)|belongs? to|part of|member of|parent of|child of|"
            r"sibling|between .{2,60} and"
        ),
    ),
    # A bridge question: the thing asked about is described through another thing ("the director of the film that won ...").
    ("relational", 1.8, re.compile(r"\b(?:of|by|in) (?:the|a|an) [^?]{3,60}\b(?:that|which|who|whose|where)\b", re.IGNORECASE)),
    ("analytical", 3.0, re.compile(r"^\s*(?:(?:and|so|but)\s+)?why\b", re.IGNORECASE)),
    (
        "analytical",
        3.0,
        _any(
            r"compare[ds]?|comparison|contrast|differ(?:s|ence|ences|ent)?|versus|vs|pros and cons|advantages?|"
            r"disadvantages?|trade-?offs?|analy[sz]e|evaluate|assess|implications?|consequences?|reasons?|"
            r"better than|worse than|when should"
        ),
    ),
    (
        "analytical",
        2.2,
        _any(
            r"explain|how does|how do|how did|impact|effects? of|affect(?:s|ed)?|influenced?|causes?d?|trends?|"
            r"significance|role of|what happens (?:if|when)|interpret|summari[sz]e|mechanisms?|why"
        ),
    ),
    (
        "factual",
        2.0,
        re.compile(r"^\s*(?:(?:and|in|on|at|for|from|by|to)\s+)?(?:who|whom|whose|when|where|which|what)\b", re.IGNORECASE),
    ),
    (
        "factual",
        2.3,
        _any(
            r"how (?:many|much|long|old|tall|far|often|large|big|high|deep|fast|wide)|"
            r"what (?:year|date|time|is the name)|name of|define|definition"
        ),
    ),
    ("factual", 1.2, re.compile(r"^\s*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would)\b", re.IGNORECASE)),
    (
        "vague",
        2.5,
        _any(
            r"tell me (?:something|more|about)|anything about|something about|what about|stuff|and so on|"
            r"any (?:ideas?|thoughts?)|help(?: me)?|info(?:rmation)?(?: on| about)?"
        ),
    ),
)

_STOP_WORDS = """
a an the of in on at to for from by with and or is are was were be been do does did has have had can could will would should
i we you he she it they this that these those what who when where which why how me my our your please there about any some
"""
_STOP = frozenset(_STOP_WORDS.split())
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
    if not words or (len(words) == 1 and totals["factual"] == totals["procedural"] == 0.0):
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
