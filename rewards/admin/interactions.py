"""Interactions and their ratings: what was asked, what was answered, and why this agent was chosen. Nothing here is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator
from unfold.utils import parse_datetime_str

from adaptrag.common.admin import ReadOnlyAdmin
from agents.classifier import CATEGORIES
from agents.models import AgentVariant, Chunk
from rewards.admin.trace import trace_of
from rewards.models import Interaction, Reward
from rewards.selectors import source_link

MODE_LABELS = {"bandit": "info", "pinned": "", "sticky": "", "manual_override": "", "compare": "", "imported": ""}
STATE_LABELS = {"answered": "success", "failed": "danger"}
# What a list never shows; a page of 50 interactions would otherwise read a megabyte of passages.
HEAVY = ("answer", "sources", "trace", "candidates", "messages")


class PeriodFilter(RangeDateTimeFilter):
    """The theme's filter, but in the site's time zone and content with a date that has no time."""

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        for bound, lookup, clock in (("from", "gte", "00:00:00"), ("to", "lte", "23:59:59")):
            day, time = (self.used_parameters.get(f"{self.parameter_name}_{bound}_{part}") for part in (0, 1))
            at = parse_datetime_str(f"{day} {time or clock}") if day else None
            if at is not None:
                queryset = queryset.filter(**{f"{self.field_path}__{lookup}": timezone.make_aware(at)})
        return queryset


class CategoryFilter(admin.SimpleListFilter):
    """The known categories, without a query for those that occur."""

    title = "category"
    parameter_name = "category"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in CATEGORIES]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(category=self.value()) if self.value() else queryset


class AgentFilter(admin.SimpleListFilter):
    title = "agent"
    parameter_name = "agent"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = AgentVariant.objects.order_by("name").values_list("name", flat=True).distinct()
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        # Ids instead of a join: the list then still walks the index on time.
        return queryset.filter(variant_id__in=list(AgentVariant.objects.filter(name=self.value()).values_list("pk", flat=True)))


class RatedFilter(admin.SimpleListFilter):
    title = "rating"
    parameter_name = "rated"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "rated"), ("low", "rated below 0.5"), ("corrected", "corrected"), ("no", "not rated")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        ratings = Reward.objects.filter(interaction=OuterRef("pk"))
        match self.value():
            case "yes":
                return queryset.filter(Exists(ratings))
            case "low":
                return queryset.filter(Exists(ratings.filter(value__lt=0.5)))
            case "corrected":
                return queryset.filter(Exists(ratings.exclude(correction="")))
            case "no":
                return queryset.filter(~Exists(ratings))
        return queryset


class FallbackFilter(admin.SimpleListFilter):
    title = "model"
    parameter_name = "fallback"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "a fall-back answered")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(fallback__isnull=False) if self.value() else queryset


# Judges' names -> what is said beside their ratings. Evaluation, which builds on this app, adds its own.
RATER_NOTES: list[Callable[[Iterable[str]], Mapping[str, str]]] = []


def noted(ratings: Iterable[Reward]) -> Iterable[Reward]:
    """The same ratings with their `note`."""
    raters = {one.rater for one in ratings if one.source == Reward.Source.JUDGE}
    notes = [notes_of(raters) for notes_of in RATER_NOTES]
    for one in ratings:
        one.note = ", ".join(filter(None, (found.get(one.rater) for found in notes)))
    return ratings


@admin.register(Interaction)
class InteractionAdmin(ReadOnlyAdmin):
    list_display = ("asked", "question_text", "category", "agent", "mode_label", "reward", "latency", "state_label")
    list_display_links = ("question_text",)
    list_filter = (
        CategoryFilter,
        AgentFilter,
        "mode",
        "state",
        RatedFilter,
        FallbackFilter,
        ("created_at", PeriodFilter),
    )
    list_filter_submit = True
    list_select_related = ("variant",)
    list_per_page = 50
    # Neither the list nor its pages count a table that may hold millions of rows.
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("question",)
    search_help_text = "Words of the question, or an interaction's id"
    ordering = ("-created_at",)
    change_form_template = "admin/rewards/interaction/page.html"
    empty_hint = (
        "Every question that is asked is logged here, with its answer and why that agent was chosen. Ask one on the chat page."
    )
    empty_link = ("chat", "Ask a question")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        queryset = super().get_queryset(request).prefetch_related("rewards")
        return queryset if request.resolver_match.url_name.endswith("_change") else queryset.defer(*HEAVY)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        try:
            return queryset.filter(pk=UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @display(description="Time", ordering="created_at")
    def asked(self, interaction: Interaction) -> str:
        at = timezone.localtime(interaction.created_at)
        return format_html('<time class="ar-num" datetime="{}">{}</time>', at.isoformat(), f"{at:%d %b %H:%M}")

    @display(description="Question")
    def question_text(self, interaction: Interaction) -> str:
        text = " ".join(interaction.question.split())
        return text if len(text) <= 90 else text[:89] + "…"

    @display(description="Agent")
    def agent(self, interaction: Interaction) -> str:
        return format_html('<span class="ar-nowrap">{}</span>', interaction.variant)

    @display(description="Mode", label=MODE_LABELS)
    def mode_label(self, interaction: Interaction) -> tuple[str, str]:
        return interaction.mode, {"manual_override": "forced"}.get(interaction.mode, interaction.mode)

    @display(description="Rating")
    def reward(self, interaction: Interaction) -> str:
        ratings = interaction.rewards.all()
        if not ratings:
            return "–"
        mean = sum(one.value for one in ratings) / len(ratings)
        return f"{mean:.2f}" if len(ratings) == 1 else f"{mean:.2f} (n {len(ratings)})"

    @display(description="Latency", ordering="latency_ms")
    def latency(self, interaction: Interaction) -> str:
        seconds = interaction.latency_ms / 1000
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{interaction.latency_ms:.0f} ms"

    @display(description="State", label=STATE_LABELS)
    def state_label(self, interaction: Interaction) -> str:
        return interaction.state

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        interaction = self.get_object(request, object_id)
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), **(page(interaction) if interaction else {})}
        )


PANELS: list[Callable[[Interaction], dict[str, Any]]] = []  # of the apps that build on this one: what each adds to the page


def page(interaction: Interaction) -> dict[str, Any]:
    """What the page of an interaction shows, ready for the template."""
    candidates = sorted(interaction.candidates, key=lambda one: -one["probability"])
    here = set(Chunk.objects.filter(pk__in=[one["chunk_id"] for one in interaction.sources]).values_list("pk", flat=True))
    sources = [
        one
        | {
            "number": number,
            "used": one.get("used", True),
            "exists": one["chunk_id"] in here or bool(one.get("url")),
            "url": source_link(one, interaction.pk),
        }
        for number, one in enumerate(interaction.sources, start=1)
    ]
    return {
        "interaction": interaction,
        "turns": interaction.messages,
        "candidates": [one | {"chosen": one.get("variant_id") == interaction.variant_id} for one in candidates],
        "sources": sources,
        **trace_of(interaction),
        "ratings": noted(list(interaction.rewards.all())),
        "pull": getattr(interaction, "pull", None),
        **{name: value for panel in PANELS for name, value in panel(interaction).items()},
    }


@admin.register(Reward)
class RewardAdmin(ReadOnlyAdmin):
    list_display = ("rating", "question", "agent", "source", "rater_label", "correction_text", "comment_text", "created_at")
    list_filter = ("source", ("created_at", PeriodFilter))
    list_filter_submit = True
    list_select_related = ("interaction__variant",)
    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("rater", "comment", "correction")
    fields = ("interaction_link", "value", "source", "rater", "correction", "comment", "created_at", "updated_at")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer(*(f"interaction__{name}" for name in HEAVY))

    empty_hint = "Ratings are given on the chat page and by POST /api/feedback."
    empty_link = ("chat", "Ask and rate")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        noted(found.result_list)
        return found

    @display(description="Rating", ordering="value")
    def rating(self, reward: Reward) -> str:
        return f"{reward.value:.2f}"

    @display(description="Rater", ordering="rater")
    def rater_label(self, reward: Reward) -> str:
        return f"{reward.rater}, {reward.note}" if reward.note else reward.rater

    @display(description="Question")
    def question(self, reward: Reward) -> str:
        return self._link(reward, " ".join(reward.interaction.question.split())[:80])

    @display(description="Interaction")
    def interaction_link(self, reward: Reward) -> str:
        return self._link(reward, reward.interaction.question[:200])

    @display(description="Agent")
    def agent(self, reward: Reward) -> str:
        return format_html('<span class="ar-nowrap">{}</span>', reward.interaction.variant)

    @display(description="Correction")
    def correction_text(self, reward: Reward) -> str:
        return reward.correction[:80] or "–"

    @display(description="Comment")
    def comment_text(self, reward: Reward) -> str:
        return reward.comment[:80] or "–"

    @staticmethod
    def _link(reward: Reward, text: str) -> str:
        url = reverse("admin:rewards_interaction_change", args=[reward.interaction_id])
        return format_html('<a class="text-link" href="{}">{}</a>', url, text)
