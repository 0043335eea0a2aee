"""Recipes, results and counts in words and units, where a page would otherwise show their JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.contrib.humanize.templatetags.humanize import intcomma
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

Words = Mapping[str, tuple[str, Callable[[Any], str]]]


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _loss(value: Any) -> str:
    return "–" if value is None else f"{value:.3f} nats a token"


def _rate(value: Any) -> str:
    return "by the width of the model" if value is None else f"{value:g}"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "–" if value is None else _yes(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items()) or "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def _counted(value: Mapping[str, int]) -> str:
    """A line each, the most frequent first."""
    lines = sorted(value.items(), key=lambda pair: -pair[1])
    return format_html_join(mark_safe("<br>"), "{} × {}", ((intcomma(count), name) for name, count in lines)) or "none"


RECIPE: Words = {
    "steps": ("Steps", intcomma),
    "batch": ("Examples a step", intcomma),
    "micro": ("Computed at once, on average", intcomma),
    "r": ("Rank", str),
    "alpha": ("Alpha", lambda value: "twice the rank" if value is None else f"{value:g}"),
    "rank_stabilized": ("Rank-stabilized", _yes),
    "learning_rate": ("Learning rate", _rate),
    "plus": ("Learning rate of B to that of A", lambda value: f"{value:g}"),
    "warmup": ("Warm-up", lambda value: f"{value:.0%} of the steps"),
    "schedule": ("Schedule", str),
    "dropout": ("Dropout", lambda value: f"{value:g}"),
    "clip": ("Gradient norm at most", lambda value: f"{value:g}"),
    "every": ("Validated", lambda value: f"every {value} steps" if value else "three times, or every 25 steps"),
    "patience": ("Stops early", lambda value: f"after {value} validations without gain" if value else "never"),
    "precision": ("Precision", str),
    "quantized": ("4-bit base weights", _yes),
    "threads": ("Threads", lambda value: str(value or "measured")),
    "seed": ("Seed", str),
}

RESULT: Words = {
    "steps": ("Steps done", intcomma),
    "best_step": ("Weights kept of step", intcomma),
    "train_loss": ("Training loss, last five steps", _loss),
    "validation_loss": ("Best validation loss", _loss),
    "learning_rate": ("Learning rate", _rate),
    "tokens": ("Tokens, without padding", intcomma),
    "tokens_per_second": ("Tokens a second", lambda value: f"{value:.0f}"),
    "seconds": ("Took", _seconds),
    "peak_memory_bytes": ("Peak memory", filesizeformat),
    "precision": ("Precision", str),
    "trainable_parameters": ("Trained parameters", intcomma),
    "skipped": ("Examples too long for the model", intcomma),
}

FILTERS: Words = {
    "source": ("Targets of", str),
    "min_reward": ("Mean rating at least", lambda value: f"{value:g}"),
    "student": ("Student whose tokenizer counts", str),
    "window": ("Tokens at most", intcomma),
    "validation": ("Questions kept for validation", lambda value: f"{value:.0%}"),
    "scrub": ("Secrets and e-mail addresses replaced", _yes),
    "eval_questions": ("Questions of eval sets that stay out", intcomma),
}

COUNTS: Words = {
    "train": ("To train on", intcomma),
    "validation": ("To validate", intcomma),
    "origins": ("By origin", _counted),
    "left_out": ("Left out", _counted),
    "cut": ("Cut to the window", intcomma),
    "scrubbed": ("With something replaced", intcomma),
    "tokens": ("Tokens", intcomma),
}


def facts(values: Mapping[str, Any], words: Words) -> str:
    """A table of the values in the order of their words; a value without words goes by its name. A dash for none."""
    rows = [(label, written(values[name])) for name, (label, written) in words.items() if name in values]
    rows += [(name, _plain(value)) for name, value in values.items() if name not in words]
    cells = format_html_join("", '<tr><th scope="row">{}</th><td>{}</td></tr>', rows)
    return format_html('<table class="ar-table ar-facts-table"><tbody>{}</tbody></table>', cells) if rows else "–"
