"""POST /api/feedback."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.authentication import Caller, caller
from adaptrag.api.fields import Choice, Number, Strict, Text, validated
from adaptrag.api.metrics import FEEDBACK
from adaptrag.api.queries import interaction_uuid
from adaptrag.common.errors import InvalidInput
from rewards.errors import UnknownInteraction
from rewards.models import Interaction, Reward
from rewards.services import feedback_record
from rewards.services.feedback import COMMENT_MAX, CORRECTION_MAX, RATER_MAX, reward_checked

# Names that the site gives to keys and accounts itself.
RESERVED_RATERS = ("key:", "user:")


@extend_schema_field({"type": "number", "minimum": 0, "maximum": 1, "description": "0 is bad, 1 is good."})
class RewardField(Number):
    """Judged by the service, so that every way in says the same."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return reward_checked(data) if data is not serializers.empty else super().run_validation(data)


class FeedbackSerializer(Strict):
    interaction_id = Text(max_length=100)
    reward = RewardField()
    rater = Text(
        required=False, max_length=RATER_MAX, help_text="Who rates, in your own naming; the key or the user if absent."
    )
    source = Choice(required=False, choices=Reward.Source.values, default=Reward.Source.USER)
    correction = Text(
        required=False,
        allow_blank=True,
        max_length=CORRECTION_MAX,
        trim_whitespace=False,
        help_text="What the answer should be.",
    )
    comment = Text(required=False, allow_blank=True, max_length=COMMENT_MAX, trim_whitespace=False)


class ArmSerializer(serializers.Serializer):
    agent = serializers.CharField()
    revision = serializers.IntegerField()
    category = serializers.CharField()
    pulls = serializers.FloatField()
    mean = serializers.FloatField()
    total = serializers.FloatField()


class RecordedSerializer(serializers.Serializer):
    outcome = serializers.ChoiceField(choices=["created", "unchanged", "replaced"])
    interaction_id = serializers.UUIDField(source="reward.interaction_id")
    reward = serializers.FloatField(source="reward.value")
    rater = serializers.CharField(source="reward.rater")
    source = serializers.CharField(source="reward.source")
    correction = serializers.CharField(source="reward.correction")
    comment = serializers.CharField(source="reward.comment")
    arm = ArmSerializer(allow_null=True, help_text="The arm's figures after this; null where the interaction counts for none.")


class FeedbackView(APIView):
    @extend_schema(
        operation_id="feedback", request=FeedbackSerializer, responses={201: RecordedSerializer, 200: RecordedSerializer}
    )
    def post(self, request: Request) -> Response:
        """Rate an answer. 201: a new rating; 200: the same again (nothing changes), or another value (it replaces it)."""
        fields, who = validated(FeedbackSerializer, request.data), caller(request)
        fields["interaction_id"] = interaction_uuid(fields["interaction_id"])
        fields["rater"] = _rater(fields.get("rater"), who)
        if who.collections is not None:
            _must_see(fields["interaction_id"], who)
        result = feedback_record(**fields)
        FEEDBACK.labels(result.reward.source, result.outcome).inc()
        return Response(RecordedSerializer(result).data, status=201 if result.outcome == "created" else 200)


def _rater(named: str | None, who: Caller) -> str:
    if named is None or named == who.rater:
        return who.rater
    if named.startswith(RESERVED_RATERS):
        raise InvalidInput(
            f"Raters that start with {' or '.join(RESERVED_RATERS)} are the site's own names; you are {who.rater!r}.",
            field="rater",
        )
    return named


def _must_see(interaction_id: Any, who: Caller) -> None:
    row = Interaction.objects.select_related("collection").only("collection__name").filter(pk=interaction_id).first()
    if row is None or not who.sees(row.collection):
        raise UnknownInteraction(f"There is no interaction {interaction_id} that this key may see.")
