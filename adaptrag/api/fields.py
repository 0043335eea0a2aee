"""Fields that take a JSON value for what it is: no number for a text, no text or truth value for a number."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from rest_framework import serializers


class Choice(serializers.ChoiceField):
    """A text out of a list, which the error repeats."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or data not in self.choices:
            raise serializers.ValidationError(f"Must be one of {', '.join(map(str, self.choices))}, not {_kind(data)}.")
        return data


class Text(serializers.CharField):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError(f"Must be text, not {_kind(data)}.")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, float) and data.is_integer():  # 5.0 is a whole number in JSON
            data = int(data)
        if isinstance(data, bool) or not isinstance(data, int):
            raise serializers.ValidationError(f"Must be a whole number, not {_kind(data)}.")
        return data


class Number(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        try:
            if not isinstance(data, bool) and isinstance(data, int | float) and math.isfinite(data):
                return float(data)
        except OverflowError:  # a whole number with more digits than a float holds
            pass
        raise serializers.ValidationError(f"Must be a finite number, not {_kind(data)}.")


class Strict(serializers.Serializer):
    """Refuses fields that it does not know, with the names of those that it does."""

    default_error_messages = {"null": "Must be a JSON object, not null."}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError({"non_field_errors": [f"Must be a JSON object, not {_kind(data)}."]})
        if unknown := data.keys() - self.fields.keys():
            known = ", ".join(self.fields)
            raise serializers.ValidationError({name: [f"Unknown field; known are {known}."] for name in sorted(unknown)})
        return super().to_internal_value(data)


@cache
def _validator(serializer_class: type[Strict]) -> Strict:
    return serializer_class()


def validated(serializer_class: type[Strict], data: Any) -> dict[str, Any]:
    """`data` as the serializer has it, or ValidationError. One instance serves all requests: validation keeps no state in it,
    and building the fields anew costs four times what using them does."""
    return dict(_validator(serializer_class).run_validation(data))


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case str():
            return f"the text {value[:40]!r}"
        case int() | float():
            return f"the number {value!r:.40}"
        case list():
            return "a list"
    return "an object"
