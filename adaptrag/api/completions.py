"""POST /v1/chat/completions and GET /v1/models: the same answers behind OpenAI's API, for every client that speaks it."""

from __future__ import annotations

import json
import time
from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag import orchestrator
from adaptrag.api.authentication import caller
from adaptrag.api.completion_request import AUTO, CompletionRequest, CompletionSerializer, completion_request
from adaptrag.api.errors import openai_body
from adaptrag.api.fields import validated
from adaptrag.api.metrics import count_failure, count_query
from adaptrag.api.queries import FallbackSerializer, RoutingSerializer, SourceSerializer
from adaptrag.api.streaming import streamed
from agents.models import AgentVariant
from agents.selectors import answering_variants, collection_for, live_variant

OWNER = "adaptrag"


class ReplySerializer(serializers.Serializer):
    role = serializers.ChoiceField(choices=["assistant"])
    content = serializers.CharField(allow_blank=True)


class ChoiceSerializer(serializers.Serializer):
    index = serializers.IntegerField()
    message = ReplySerializer()
    finish_reason = serializers.ChoiceField(choices=["stop"])
    logprobs = serializers.JSONField(allow_null=True)


class TokensSerializer(serializers.Serializer):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class ExtensionSerializer(serializers.Serializer):
    """What OpenAI's form has no place for."""

    revision = serializers.IntegerField()
    category = serializers.CharField()
    routing = RoutingSerializer()
    sources = SourceSerializer(many=True)
    cost_usd = serializers.FloatField()
    chat_model = serializers.CharField(allow_blank=True, help_text="The chat model that answered.")
    fallback = FallbackSerializer(allow_null=True)
    latency_ms = serializers.FloatField()
    ignored = serializers.ListField(child=serializers.CharField(), help_text="Parts of the request that were left aside.")


class CompletionAnswerSerializer(serializers.Serializer):
    id = serializers.UUIDField(help_text="The interaction's id: give it to /api/feedback.")
    object = serializers.ChoiceField(choices=["chat.completion"])
    created = serializers.IntegerField()
    model = serializers.CharField(help_text="The agent that answered.")
    choices = ChoiceSerializer(many=True)
    usage = TokensSerializer()
    adaptrag = ExtensionSerializer()


class ModelSerializer(serializers.Serializer):
    id = serializers.CharField(help_text="auto, or an agent's name.")
    object = serializers.ChoiceField(choices=["model"])
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class ModelListSerializer(serializers.Serializer):
    object = serializers.ChoiceField(choices=["list"])
    data = ModelSerializer(many=True)


ANSWERS = {
    (200, "application/json"): CompletionAnswerSerializer,
    (200, "text/event-stream"): OpenApiResponse(OpenApiTypes.STR, "With stream: chat.completion.chunk objects, then [DONE]."),
}


class CompletionsView(APIView):
    @extend_schema(operation_id="chat_completion", request=CompletionSerializer, responses=ANSWERS)
    def post(self, request: Request) -> HttpResponseBase:
        """Answer the last message as OpenAI's API does; `auto` lets the bandit choose the agent."""
        fields = validated(CompletionSerializer, request.data)
        asked = completion_request(request.data, fields, caller(request))
        if asked.stream:
            # While a status can still say so; what fails later becomes an event.
            collection_for(asked.query.collection)
            if asked.query.agent is not None:
                live_variant(asked.query.agent)
            return streamed(asked.query, Chunks(asked))
        try:
            result = orchestrator.query(asked.query)
        except Exception as error:
            count_failure(error)
            raise
        count_query(result)
        choice = {"index": 0, "message": {"role": "assistant", "content": result.answer}, "finish_reason": "stop"}
        body = _head("chat.completion", str(result.interaction_id), result.agent)
        body |= {"choices": [choice | {"logprobs": None}], "usage": _usage(result), "adaptrag": _extension(result, asked)}
        return Response(body)


class Chunks:
    """An answer as chat.completion.chunk objects: role, text, end with the extension, usage where asked for, [DONE]."""

    def __init__(self, asked: CompletionRequest) -> None:
        self._asked = asked
        self._head: dict[str, Any] = {}
        self._told = False

    def routed(self, routed: dict[str, Any]) -> bytes:
        self._head = _head("chat.completion.chunk", routed["interaction_id"], routed["agent"])
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        self._told = self._told or bool(text)
        return self._chunk({"content": text})

    def done(self, result: orchestrator.QueryResult) -> bytes:
        # Some answers are no model's words and come whole.
        parts = [] if self._told or not result.answer else [self._chunk({"content": result.answer})]
        parts.append(self._chunk({}, finish="stop", adaptrag=_extension(result, self._asked)))
        if self._asked.include_usage:
            parts.append(_event(self._head | {"choices": [], "usage": _usage(result)}))
        return b"".join([*parts, b"data: [DONE]\n\n"])

    def failed(self, status: int, body: dict[str, Any]) -> bytes:
        return _event(openai_body(status, body))

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._asked.include_usage else {}
        return _event(self._head | {"choices": [choice]} | usage | more)


class ModelsView(APIView):
    @extend_schema(operation_id="models", responses=ModelListSerializer)
    def get(self, request: Request) -> Response:
        """`auto`, and every agent that takes questions."""
        agents = [_model(variant) for variant in answering_variants()]
        return Response({"object": "list", "data": [_auto(), *agents]})


class ModelView(APIView):
    @extend_schema(operation_id="model", responses=ModelSerializer)
    def get(self, request: Request, model: str) -> Response:
        """One of them."""
        return Response(_auto() if model == AUTO else _model(live_variant(model)))


def _auto() -> dict[str, Any]:
    return {"id": AUTO, "object": "model", "created": 0, "owned_by": OWNER}


def _model(variant: AgentVariant) -> dict[str, Any]:
    return {"id": variant.name, "object": "model", "created": int(variant.created_at.timestamp()), "owned_by": OWNER}


def _head(kind: str, identifier: str, agent: str) -> dict[str, Any]:
    return {"id": identifier, "object": kind, "created": int(time.time()), "model": agent}


def _usage(result: orchestrator.QueryResult) -> dict[str, int]:
    prompt, completion = result.usage["prompt_tokens"], result.usage["completion_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _extension(result: orchestrator.QueryResult, asked: CompletionRequest) -> dict[str, Any]:
    return {
        "revision": result.revision,
        "category": result.category,
        "routing": result.routing,
        "sources": result.sources,
        "cost_usd": result.usage["cost_usd"],
        "chat_model": result.model,
        "fallback": result.fallback,
        "latency_ms": round(result.latency_ms, 1),
        "ignored": list(asked.ignored),
    }


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, default=str, separators=(',', ':'))}\n\n".encode()
