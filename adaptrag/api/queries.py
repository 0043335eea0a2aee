"""POST /api/query, /api/query/{agent}, /api/compare; GET /api/interactions/{id}."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag import orchestrator
from adaptrag.api.authentication import caller
from adaptrag.api.fields import Choice, Strict, Text, Whole, validated
from adaptrag.api.metrics import count_failure, count_query
from adaptrag.api.streaming import streamed
from adaptrag.common.errors import InvalidInput, Unavailable
from agents.classifier import CATEGORIES
from agents.llm.base import Message
from agents.selectors import collection_for, live_variant
from rewards.errors import UnknownInteraction
from rewards.models import Interaction

MESSAGES_MAX = 50
MESSAGES_CHARS_MAX = orchestrator.MESSAGES_CHARS_MAX


@extend_schema_field({"type": "string", "minLength": 1, "maxLength": settings.ADAPTRAG_MAX_QUESTION_CHARS, "pattern": r"\S"})
class Question(Text):
    """Length and characters are the orchestrator's to judge, so that every way in says the same."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return orchestrator.question_checked(data) if data is not serializers.empty else super().run_validation(data)


class TurnSerializer(Strict):
    role = Choice(choices=["user", "assistant"])
    # An answer of 8,192 tokens, which is what an agent may be set to, has some 32,000 characters and must fit in whole.
    content = Text(max_length=MESSAGES_CHARS_MAX, trim_whitespace=False)


class QuerySerializer(Strict):
    question = Question()
    messages = TurnSerializer(
        many=True, required=False, max_length=MESSAGES_MAX, help_text="Earlier turns of the conversation, oldest first."
    )
    session = Text(required=False, allow_blank=True, max_length=100, help_text="Your name for the conversation.")
    top_k = Whole(
        required=False,
        min_value=1,
        max_value=orchestrator.TOP_K_MAX,
        help_text="Passages to retrieve; if absent the collection's.",
    )
    agent = Text(required=False, max_length=64, help_text="Forces this agent, as /api/query/{agent} does.")
    category = Choice(required=False, choices=CATEGORIES, help_text="In place of the classifier's.")
    collection = Text(required=False, max_length=64, help_text="Where to look; the default collection if absent.")

    def validate_messages(self, messages: list[dict[str, str]]) -> tuple[Message, ...]:
        size = sum(len(message["content"]) for message in messages)
        if size > MESSAGES_CHARS_MAX:
            raise serializers.ValidationError(f"{size:,} characters in all; at most {MESSAGES_CHARS_MAX:,} are taken.")
        return tuple(Message(**message) for message in messages)


class CompareSerializer(Strict):
    question = Question()
    agents = serializers.ListField(
        child=Text(max_length=64), min_length=1, max_length=orchestrator.COMPARE_AGENTS_MAX, help_text="Names of agents."
    )
    top_k = Whole(required=False, min_value=1, max_value=orchestrator.TOP_K_MAX)
    collection = Text(required=False, max_length=64)


class SourceSerializer(serializers.Serializer):
    """A passage as the agent saw it; start and end are character offsets in the parsed document."""

    chunk_id = serializers.IntegerField()
    document_id = serializers.IntegerField()
    document = serializers.CharField()
    heading = serializers.CharField()
    page = serializers.IntegerField(allow_null=True)
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    text = serializers.CharField()
    score = serializers.FloatField(help_text="The retriever's own; higher is better.")
    rank = serializers.IntegerField()
    retriever = serializers.CharField()
    scores = serializers.DictField(child=serializers.FloatField())
    kind = serializers.CharField(help_text="text, schema or rows of a table, sql (a query and its result), image, ...")
    place = serializers.DictField(help_text="What it has of: slide, sheet, table, rows [first, last], lines, image.")
    image_id = serializers.IntegerField(allow_null=True, help_text="The image that it speaks of.")
    matched = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        help_text="[start, end] in the document of the sentences or children that were found in it, where those were searched.",
    )
    via = serializers.CharField(allow_blank=True, help_text="The relations that led to it, where a graph did.")
    url = serializers.CharField(allow_blank=True, help_text="Its address, where it comes from an external search.")
    used = serializers.BooleanField(help_text="Whether it stood in the prompt of the answer.")


class CandidateSerializer(serializers.Serializer):
    agent = serializers.CharField()
    revision = serializers.IntegerField()
    variant_id = serializers.IntegerField()
    probability = serializers.FloatField()
    pulls = serializers.FloatField(help_text="What the policy saw, priors and inherited evidence included.")
    mean = serializers.FloatField(allow_null=True)


class RoutingSerializer(serializers.Serializer):
    policy = serializers.CharField(allow_null=True)
    policy_revision = serializers.IntegerField(allow_null=True)
    mode = serializers.ChoiceField(choices=Interaction.Mode.values)
    propensity = serializers.FloatField(allow_null=True, help_text="Probability with which the policy picked this agent.")
    candidates = CandidateSerializer(many=True)


class UsageSerializer(serializers.Serializer):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    cost_usd = serializers.FloatField()


class FallbackSerializer(serializers.Serializer):
    def get_fields(self) -> dict[str, serializers.Field]:
        return {name: serializers.CharField() for name in ("from", "to", "reason")}


class AnswerSerializer(serializers.Serializer):
    interaction_id = serializers.UUIDField(help_text="Give it to /api/feedback.")
    answer = serializers.CharField(allow_blank=True)
    agent = serializers.CharField()
    revision = serializers.IntegerField()
    category = serializers.ChoiceField(choices=CATEGORIES)
    sources = SourceSerializer(many=True)
    routing = RoutingSerializer()
    usage = UsageSerializer()
    model = serializers.CharField(allow_blank=True, help_text="The chat model that answered.")
    fallback = FallbackSerializer(allow_null=True, help_text="Set where another model than the agent's own answered.")
    latency_ms = serializers.FloatField()


class ComparedSerializer(AnswerSerializer):
    usage = serializers.DictField(child=serializers.FloatField())
    error = serializers.DictField(required=False, help_text="{code, message} where this agent failed.")


class ComparisonSerializer(serializers.Serializer):
    results = ComparedSerializer(many=True)


class RatingSerializer(serializers.Serializer):
    source = serializers.CharField()
    rater = serializers.CharField()
    reward = serializers.FloatField(source="value")
    correction = serializers.CharField()
    comment = serializers.CharField()
    created_at = serializers.DateTimeField()


class InteractionSerializer(serializers.ModelSerializer):
    interaction_id = serializers.UUIDField(source="id")
    agent = serializers.CharField(source="variant.name")
    revision = serializers.IntegerField(source="variant.revision")
    collection = serializers.CharField(source="collection.name", allow_null=True, default=None)
    sources = serializers.ListField(child=serializers.DictField())
    messages = TurnSerializer(many=True)
    routing = serializers.SerializerMethodField()
    usage = serializers.SerializerMethodField()
    trace = serializers.ListField(child=serializers.DictField())
    fallback = serializers.DictField(allow_null=True)
    error = serializers.DictField(allow_null=True)
    rewards = RatingSerializer(many=True)

    class Meta:
        model = Interaction
        fields = [
            "interaction_id", "created_at", "state", "error", "question", "messages", "session", "collection", "category",
            "agent", "revision", "top_k", "answer", "sources", "trace", "model", "fallback", "routing", "usage", "latency_ms",
            "rewards",
        ]  # fmt: skip

    @extend_schema_field(RoutingSerializer)
    def get_routing(self, row: Interaction) -> dict[str, Any]:
        return {name: getattr(row, name) for name in ("policy", "policy_revision", "mode", "propensity", "candidates")}

    @extend_schema_field(UsageSerializer)
    def get_usage(self, row: Interaction) -> dict[str, Any]:
        return {name: getattr(row, name) for name in ("prompt_tokens", "completion_tokens", "cost_usd")}


STREAM = OpenApiParameter(
    "stream", OpenApiTypes.STR, enum=["0", "1"],
    description="1: server-sent events `routing`, `delta` ({text}), then `done` (the whole answer) or `error`.",
)  # fmt: skip
ANSWERS = {
    (200, "application/json"): AnswerSerializer,
    (200, "text/event-stream"): OpenApiResponse(OpenApiTypes.STR, "With stream=1."),
}


class QueryView(APIView):
    """Routes a question to an agent and answers it."""

    @extend_schema(operation_id="query", request=QuerySerializer, parameters=[STREAM], responses=ANSWERS)
    def post(self, request: Request) -> HttpResponseBase:
        return self.answer(request)

    def answer(self, request: Request, agent: str | None = None) -> HttpResponseBase:
        asked = _query_request(request, agent)
        if _wants_stream(request):
            # While a status can still say so; what fails later becomes an event.
            collection_for(asked.collection)
            if asked.agent is not None:
                live_variant(asked.agent)
            return streamed(asked)
        try:
            result = orchestrator.query(asked)
        except Exception as error:
            count_failure(error)
            raise
        count_query(result)
        return Response(result.as_dict())


class QueryAgentView(QueryView):
    """The same with the agent forced: its feedback moves the arm, off-policy evaluation leaves it out."""

    @extend_schema(operation_id="query_agent", request=QuerySerializer, parameters=[STREAM], responses=ANSWERS)
    def post(self, request: Request, agent: str) -> HttpResponseBase:
        return self.answer(request, agent)


class CompareView(APIView):
    @extend_schema(operation_id="compare", request=CompareSerializer, responses=ComparisonSerializer)
    def post(self, request: Request) -> Response:
        """Several agents' answers side by side. An agent that fails has `error`; 503 where all of them did."""
        fields, who = validated(CompareSerializer, request.data), caller(request)
        fields |= {"agents": tuple(fields["agents"]), "collection": who.collection_name(fields.get("collection"))}
        results = orchestrator.compare(orchestrator.CompareRequest(**fields, collections=who.collections, user=request.user))
        for result in results:
            if result.error is None:
                count_query(result)
        answers = [result.as_dict() for result in results]
        if all(result.error for result in results):
            raise Unavailable(f"No agent could answer: {results[0].error['message']}", results=answers)
        return Response({"results": answers})


class InteractionView(APIView):
    @extend_schema(operation_id="interaction", responses=InteractionSerializer)
    def get(self, request: Request, interaction_id: str) -> Response:
        """One question and all that happened with it: for whoever asked it, and for operators."""
        who = caller(request)
        row = (
            Interaction.objects.select_related("variant", "collection")
            .prefetch_related("rewards")
            .filter(pk=interaction_uuid(interaction_id))
            .first()
        )
        if row is None or not who.sees(row.collection) or not (who.operator or row.asked_by_id == request.user.pk):
            raise UnknownInteraction(f"There is no interaction {interaction_id!r} that you may see.")
        if not who.operator:  # what the model was told holds the agent's instructions, which are the operator's
            row.trace = [{name: value for name, value in step.items() if name != "messages"} for step in row.trace]
        return Response(InteractionSerializer(row).data)


def interaction_uuid(text: str) -> Any:
    """Raises UnknownInteraction for what can't be an id: it is as unknown as one that was never given."""
    try:
        return serializers.UUIDField().to_internal_value(text)
    except serializers.ValidationError:
        raise UnknownInteraction(f"There is no interaction {text[:60]!r}; ids are the UUIDs that answers carry.") from None


def _query_request(request: Request, agent: str | None) -> orchestrator.QueryRequest:
    fields, who = validated(QuerySerializer, request.data), caller(request)
    if agent is not None and fields.setdefault("agent", agent) != agent:
        raise InvalidInput(f"The address says agent {agent!r}, the body {fields['agent']!r}. Name one.", field="agent")
    fields["collection"] = who.collection_name(fields.get("collection"))
    return orchestrator.QueryRequest(**fields, collections=who.collections, user=request.user)


def _wants_stream(request: Request) -> bool:
    value = request.query_params.get("stream", "0")
    if value not in ("0", "1", "false", "true"):
        raise InvalidInput(f"stream must be 0 or 1, not {value[:40]!r}.", field="stream")
    return value in ("1", "true")
