"""GET /api/rl/stats, /api/rl/leaderboard; POST /api/rl/optimize, /api/rl/reset."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.fields import Choice, Strict, validated
from agents.classifier import CATEGORIES
from rewards.leaderboard import leaderboard, stats
from rewards.self_improver import improvement_report
from rewards.services import learning_reset

PERIOD = [
    OpenApiParameter("since", OpenApiTypes.DATETIME, description="Only what was asked from the beginning of that hour on."),
    OpenApiParameter("until", OpenApiTypes.DATETIME, description="Only what was asked before the beginning of that hour."),
]


class SinceQuery(Strict):
    since = serializers.DateTimeField(required=False)


class PeriodQuery(SinceQuery):
    until = serializers.DateTimeField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "since" in attrs and "until" in attrs and attrs["until"] <= attrs["since"]:
            raise serializers.ValidationError({"until": [f"Must be later than since, {attrs['since'].isoformat()}."]})
        return attrs


class LeaderboardQuery(PeriodQuery):
    category = Choice(required=False, choices=CATEGORIES)


class PolicySerializer(serializers.Serializer):
    name = serializers.CharField()
    kind = serializers.CharField()
    revision = serializers.IntegerField()
    parameters = serializers.DictField()
    min_share = serializers.FloatField()
    judges_count = serializers.BooleanField()
    learn_since = serializers.DateTimeField(allow_null=True)


class CategoryFiguresSerializer(serializers.Serializer):
    interactions = serializers.IntegerField()
    n = serializers.IntegerField(help_text="Rated answers that count.")
    mean_reward = serializers.FloatField(allow_null=True)


class OverallSerializer(CategoryFiguresSerializer):
    failed = serializers.IntegerField()
    ratings = serializers.IntegerField()
    latency_ms_p50 = serializers.FloatField(allow_null=True)
    latency_ms_p95 = serializers.FloatField(allow_null=True)
    cost_usd = serializers.FloatField()


class ArmFiguresSerializer(serializers.Serializer):
    category = serializers.CharField()
    agent = serializers.CharField()
    revision = serializers.IntegerField()
    interactions = serializers.IntegerField()
    n = serializers.IntegerField()
    total = serializers.FloatField()
    mean = serializers.FloatField(allow_null=True)


class StatsSerializer(serializers.Serializer):
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True)
    policy = PolicySerializer()
    overall = OverallSerializer()
    categories = serializers.DictField(child=CategoryFiguresSerializer())
    arms = ArmFiguresSerializer(many=True)


class LeaderboardRowSerializer(serializers.Serializer):
    agent = serializers.CharField()
    revision = serializers.IntegerField()
    variant_id = serializers.IntegerField()
    category = serializers.CharField(allow_null=True, help_text="null: over all categories.")
    n = serializers.IntegerField(help_text="Rated answers that count.")
    mean = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True, help_text="Lower end of the 95 % interval.")
    high = serializers.FloatField(allow_null=True)
    probability_best = serializers.FloatField(allow_null=True)
    traffic_share = serializers.FloatField(help_text="Of the questions here; comparisons left out.")
    interactions = serializers.IntegerField()
    latency_ms_p50 = serializers.FloatField(allow_null=True)
    latency_ms_p95 = serializers.FloatField(allow_null=True)
    cost_usd = serializers.FloatField(allow_null=True, help_text="Mean of an answer.")
    enough = serializers.BooleanField(help_text="False: not enough ratings to conclude from.")


class LeaderboardSerializer(serializers.Serializer):
    rows = LeaderboardRowSerializer(many=True)


class ActionSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(choices=["pause", "retire", "prior", "top_k", "eval_set"])
    label = serializers.CharField()
    values = serializers.DictField()


class FindingSerializer(serializers.Serializer):
    key = serializers.CharField(help_text="Names the finding from one report to the next.")
    kind = serializers.CharField()
    title = serializers.CharField()
    detail = serializers.CharField()
    estimate = serializers.FloatField(help_text="Effect on the reward; of `unsupported`, a share.")
    low = serializers.FloatField(help_text="Lower end of the 95 % interval.")
    high = serializers.FloatField()
    n = serializers.IntegerField()
    p = serializers.FloatField(allow_null=True)
    q = serializers.FloatField(allow_null=True, help_text="p after the correction for all that was tested; null for a count.")
    action = ActionSerializer(allow_null=True)


class ReportSerializer(serializers.Serializer):
    at = serializers.DateTimeField()
    since = serializers.DateTimeField()
    ratings = serializers.IntegerField(help_text="Rated answers that were analysed.")
    questions = serializers.IntegerField(help_text="Questions whose answers and passages were read.")
    false_discovery_rate = serializers.FloatField()
    findings = FindingSerializer(many=True)


class ResetSerializer(serializers.Serializer):
    policy = serializers.CharField()
    policy_revision = serializers.IntegerField()
    learn_since = serializers.DateTimeField(help_text="Earlier interactions no longer count.")


class StatsView(APIView):
    site_wide = True

    @extend_schema(operation_id="rl_stats", parameters=PERIOD, responses=StatsSerializer)
    def get(self, request: Request) -> Response:
        """What the router knows: its policy, and the figures overall, per category and per arm."""
        return Response(stats(**validated(PeriodQuery, request.query_params.dict())))


class LeaderboardView(APIView):
    site_wide = True

    @extend_schema(
        operation_id="rl_leaderboard",
        parameters=[
            OpenApiParameter("category", OpenApiTypes.STR, enum=CATEGORIES, description="Rows of one category; all if absent."),
            *PERIOD,
        ],
        responses=LeaderboardSerializer,
    )
    def get(self, request: Request) -> Response:
        """Agents by mean reward, with 95 % intervals, per category and overall."""
        rows = leaderboard(**validated(LeaderboardQuery, request.query_params.dict()))
        return Response({"rows": [row.as_dict() for row in rows]})


class OptimizeView(APIView):
    operator_methods = ("POST",)
    site_wide = True

    @extend_schema(operation_id="rl_optimize", request=SinceQuery, responses=ReportSerializer)
    def post(self, request: Request) -> Response:
        """What the log says about how to do better: findings with intervals, each with its action where there is one."""
        return Response(improvement_report(validated(SinceQuery, request.data).get("since")).as_dict())


class ResetView(APIView):
    operator_methods = ("POST",)
    site_wide = True

    @extend_schema(operation_id="rl_reset", request=None, responses=ResetSerializer)
    def post(self, request: Request) -> Response:
        """Back to the priors. The log stays."""
        policy = learning_reset(user=request.user)
        return Response({"policy": policy.name, "policy_revision": policy.revision, "learn_since": policy.learn_since})
