"""GET /api/agents, /api/collections: what there is to ask."""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.authentication import caller
from agents.models import AgentVariant, Collection
from agents.selectors import LIVE_STATES


class AgentSerializer(serializers.ModelSerializer):
    artifact = serializers.CharField(
        source="artifact.name", default=None, allow_null=True, help_text="Adapter or build that it answers with."
    )

    class Meta:
        model = AgentVariant
        fields = [
            "name", "revision", "strategy", "chat_backend", "chat_model", "artifact", "parameters", "state", "enabled",
            "created_at",
        ]  # fmt: skip


class IndexSerializer(serializers.Serializer):
    build = serializers.IntegerField(source="pk")
    chunks = serializers.IntegerField()
    embedding_model = serializers.CharField()
    bytes_on_disk = serializers.IntegerField()
    built_at = serializers.DateTimeField(source="created_at")


class CollectionSerializer(serializers.ModelSerializer):
    documents = serializers.IntegerField(source="document_count")
    index = IndexSerializer(source="current_build", allow_null=True, help_text="null: nothing is searchable yet.")

    class Meta:
        model = Collection
        fields = ["name", "description", "language", "top_k", "documents", "index", "created_at"]


class AgentListSerializer(serializers.Serializer):
    agents = AgentSerializer(many=True)


class CollectionListSerializer(serializers.Serializer):
    collections = CollectionSerializer(many=True)


class AgentsView(APIView):
    @extend_schema(operation_id="agents", responses=AgentListSerializer)
    def get(self, request: Request) -> Response:
        """The revision of every agent that its name answers with; one that is not `enabled` takes no questions."""
        newest: dict[str, Any] = {}
        order = ("name", "state", "-revision")
        for variant in AgentVariant.objects.select_related("artifact").filter(state__in=LIVE_STATES).order_by(*order):
            newest.setdefault(variant.name, variant)
        return Response({"agents": AgentSerializer(newest.values(), many=True).data})


class CollectionsView(APIView):
    @extend_schema(operation_id="collections", responses=CollectionListSerializer)
    def get(self, request: Request) -> Response:
        """The collections that the key may see."""
        rows, visible = Collection.objects.select_related("current_build"), caller(request).collections
        if visible is not None:
            rows = rows.filter(name__in=visible)
        rows = rows.annotate(document_count=Count("documents")).order_by("name")
        return Response({"collections": CollectionSerializer(rows, many=True).data})
