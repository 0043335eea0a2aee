"""Policies by a text, as commands take them: `thompson`, `hierarchical_thompson:mass=50,exploration=1`."""

from __future__ import annotations

from typing import Any

from adaptrag.common.errors import InvalidInput
from rewards.bandit import POLICIES, Policy


def policy_from_spec(spec: str) -> Policy:
    """Raises InvalidInput that names the policy or the parameter at fault."""
    kind, _, rest = spec.partition(":")
    if kind not in POLICIES:
        raise InvalidInput(f"Unknown policy {kind!r}; there are {', '.join(POLICIES)}.", field="policy")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, given, text = part.partition("=")
        if not given:
            raise InvalidInput(f"{part!r} is no parameter; write {kind}:name=value,name=value.", field="policy")
        parameters[name.strip()] = _number(text.strip())
    try:
        return POLICIES[kind].from_parameters(parameters)
    except ValueError as error:
        raise InvalidInput(str(error), field="policy") from error


def _number(text: str) -> float | int | str:
    for cast in (int, float):
        try:
            return cast(text)
        except ValueError:
            continue
    return text
