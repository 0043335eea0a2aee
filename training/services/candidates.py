"""What the candidate of a training or of a quantization takes over from the revision before it."""

from __future__ import annotations

from typing import Any

from agents.models import AgentVariant

LOCAL, SERVER = AgentVariant.Backend.LOCAL, AgentVariant.Backend.OPENAI
# Of another backend's options: neither its address and key nor its prices mean anything to the local one.
KEPT = ("max_tokens", "temperature", "timeout", "fallback")


def candidate_values(newest: AgentVariant | None, base_model: str = "") -> dict[str, Any]:
    """chat_backend, chat_model, chat_options and enabled of a candidate that follows `newest`.

    Where that revision asks a model server for `base_model`, so does the candidate: the server loads its adapter. Else it
    runs on the local backend. An adapter named in the options would win over the candidate's artifact and stays behind; so does
    a switch that took the older revision out of the traffic.
    """
    backend, options = LOCAL, {}
    if newest is not None:
        if newest.chat_backend == SERVER and base_model and newest.chat_model == base_model:
            backend = SERVER
        same = newest.chat_backend == backend
        options = {name: value for name, value in newest.chat_options.items() if name != "adapter" and (same or name in KEPT)}
    return {"chat_backend": backend, "chat_model": base_model, "chat_options": options, "enabled": True}
