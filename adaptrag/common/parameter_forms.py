"""Form fields for parameters that dataclasses declare, one dataclass a kind (strategies, routing policies).

Each dataclass field carries `help`, `low`, `high` and `choices` in its metadata. Kinds that declare the same field share
one form field; the admin shows the fields of the kind that is chosen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
)

_PREFIX = "parameter_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """A form field, the parameter that it sets, and the kinds that have it."""

    key: str
    spec: dataclasses.Field
    kinds: list[str]


class ParameterFields:
    """The form fields of all kinds. An empty one means the default, and stays out of the stored parameters.

    kinds: name -> dataclass; selector: the form field whose value is the kind.
    """

    def __init__(self, kinds: Mapping[str, type], selector: str) -> None:
        self._selector = selector
        self._entries: list[_Entry] = []
        for kind, declared in kinds.items():
            for spec in dataclasses.fields(declared):
                self._place(kind, spec)

    def _place(self, kind: str, spec: dataclasses.Field) -> None:
        for entry in self._entries:
            if (entry.spec.name, entry.spec.default, entry.spec.metadata) == (spec.name, spec.default, spec.metadata):
                entry.kinds.append(kind)
                return
        taken = any(entry.key == _PREFIX + spec.name for entry in self._entries)
        key = f"{_PREFIX}{kind}_{spec.name}" if taken else _PREFIX + spec.name
        self._entries.append(_Entry(key=key, spec=spec, kinds=[kind]))

    @property
    def names(self) -> list[str]:
        return [entry.key for entry in self._entries]

    def of(self, kind: str) -> list[str]:
        """The form fields that a kind has."""
        return [entry.key for entry in self._entries if kind in entry.kinds]

    @property
    def conditions(self) -> dict[str, str]:
        """Alpine expressions that show a field where the chosen kind has it (unfold's `conditional_fields`)."""
        return {entry.key: f"{entry.kinds!r}.includes({self._selector})" for entry in self._entries}

    def form_fields(self) -> dict[str, forms.Field]:
        return {entry.key: _form_field(entry.spec) for entry in self._entries}

    def initial(self, kind: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {
            entry.key: parameters[entry.spec.name]
            for entry in self._entries
            if kind in entry.kinds and entry.spec.name in parameters
        }

    def collect(self, kind: str, cleaned: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of `kind` that were filled in."""
        values = {}
        for entry in self._entries:
            value = cleaned.get(entry.key)
            if kind in entry.kinds and value not in (None, ""):
                values[entry.spec.name] = value
        return values

    def key_of(self, kind: str, parameter: str) -> str | None:
        """The form field of a parameter that validation named."""
        return next((entry.key for entry in self._entries if kind in entry.kinds and entry.spec.name == parameter), None)


def _form_field(spec: dataclasses.Field) -> forms.Field:
    rule, default = spec.metadata, spec.default
    low, high = rule.get("low"), rule.get("high")
    high = None if high is not None and math.isinf(high) else high
    common = {
        "label": spec.name.replace("_", " ").capitalize(),
        "required": False,
        "help_text": rule.get("help", "") + _bounds(low, high),
    }
    shown = {"placeholder": "" if default in (None, "") else f"{default:g} by default" if _is_number(default) else default}
    if choices := rule.get("choices"):
        blank = ("", f"{default} (default)")
        options = [blank, *((choice, choice) for choice in choices)]
        return forms.ChoiceField(choices=options, widget=UnfoldAdminSelectWidget(choices=options), **common)
    if isinstance(default, bool):
        options = [("", f"{'yes' if default else 'no'} (default)"), ("true", "yes"), ("false", "no")]
        return forms.TypedChoiceField(
            choices=options, coerce=lambda value: value == "true", empty_value=None,
            widget=UnfoldAdminSelectWidget(choices=options), **common,
        )  # fmt: skip
    if isinstance(default, int):
        widget = UnfoldAdminIntegerFieldWidget(attrs=shown)
        return forms.IntegerField(min_value=_whole(low), max_value=_whole(high), widget=widget, **common)
    if isinstance(default, float) or default is None:
        widget = UnfoldAdminDecimalFieldWidget(attrs=shown | {"step": "any"})
        return forms.FloatField(min_value=low, max_value=high, widget=widget, **common)
    return forms.CharField(widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "placeholder": "The built-in text"}), **common)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def _bounds(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" From {low:g}." if high is None else f" {low:g} to {high:g}."
