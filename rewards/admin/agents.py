"""The agents' pages with what was learned: traffic, mean reward, last error, and the priors of each category."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import CharField, OuterRef, QuerySet, Subquery
from django.db.models.fields.json import KT
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.inlines.admin import NonrelatedTabularInline
from unfold.contrib.inlines.forms import NonrelatedInlineModelFormSet
from unfold.decorators import display
from unfold.views import ChangeList

from agents.admin import AgentVariantAdmin
from agents.classifier import CATEGORIES
from agents.models import AgentVariant
from rewards.leaderboard import leaderboard
from rewards.models import Interaction, PriorReward
from rewards.services import prior_set


class PriorFormSet(NonrelatedInlineModelFormSet):
    """A row for every category, whether its prior was ever set or not; only rows that were changed are written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = set(self.queryset.values_list("category", flat=True))
        self.initial_extra = [{"category": name, "pulls": 0, "total": 0} for name in CATEGORIES if name not in known]
        self.extra = len(self.initial_extra)

    def save_new(self, form: forms.ModelForm, commit: bool = True) -> PriorReward:
        form.instance.agent_name = self.instance.name
        return self._set(form.instance)

    def save_existing(self, form: forms.ModelForm, obj: PriorReward, commit: bool = True) -> PriorReward:
        return self._set(form.instance)

    def _set(self, prior: PriorReward) -> PriorReward:
        return prior_set(
            category=prior.category, agent_name=self.instance.name, pulls=prior.pulls, total=prior.total, user=self.user
        )


class PriorRowForm(forms.ModelForm):
    class Meta:
        model = PriorReward
        fields = ("category", "pulls", "total")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["category"].disabled = True


class PriorInline(NonrelatedTabularInline):
    model = PriorReward
    form = PriorRowForm
    formset = PriorFormSet
    fields = ("category", "pulls", "total")
    verbose_name_plural = "Priors: evidence assumed before any rating, for this agent in each category"
    can_delete = False
    extra = 0
    max_num = len(CATEGORIES)
    hide_title = True

    def get_form_queryset(self, obj: AgentVariant) -> QuerySet:
        return PriorReward.objects.filter(agent_name=obj.name, category__in=CATEGORIES).order_by("category")

    def save_new_instance(self, parent: AgentVariant, instance: PriorReward) -> None:
        instance.agent_name = parent.name

    def get_formset(self, request: HttpRequest, obj: AgentVariant | None = None, **kwargs: Any) -> type:
        formset = super().get_formset(request, obj, **kwargs)
        formset.user = request.user
        return formset


class LearnedChangeList(ChangeList):
    """Puts the leaderboard's overall figures beside the agents of the page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = {row.variant_id: row for row in leaderboard() if row.category is None}
        for variant in self.result_list:
            variant.learned = rows.get(variant.pk)


@admin.register(AgentVariant)
class LearningAgentAdmin(AgentVariantAdmin):
    list_display = (
        "agent",
        "state_label",
        "enabled",
        "strategy",
        "chat",
        "traffic",
        "mean_reward",
        "last_error",
    )
    inlines = (PriorInline,)
    change_form_outer_before_template = "admin/rewards/learned.html"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        asked = [row for row in leaderboard() if str(row.variant_id) == object_id and row.interactions]
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "learned": asked})

    def get_inlines(self, request: HttpRequest, obj: AgentVariant | None) -> tuple:
        return self.inlines if obj else ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LearnedChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        failed = Interaction.objects.filter(variant=OuterRef("pk"), state=Interaction.State.FAILED).order_by("-created_at")
        return super().get_queryset(request).annotate(
            error_id=Subquery(failed.values("pk")[:1]),
            error_message=Subquery(failed.annotate(said=KT("error__message")).values("said")[:1], output_field=CharField()),
        )  # fmt: skip

    @display(description="Traffic")
    def traffic(self, variant: AgentVariant) -> str:
        row = variant.learned
        if row is None or not row.interactions:
            return "–"
        url = f"{reverse('admin:rewards_interaction_changelist')}?agent={variant.name}"
        return format_html('<a class="text-link ar-num" href="{}">{} %</a>', url, f"{100 * row.traffic_share:.0f}")

    @display(description="Mean reward, 95 %")
    def mean_reward(self, variant: AgentVariant) -> str:
        row = variant.learned
        if row is None or row.mean is None:
            return "not enough data"
        interval = f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f}), n {row.n}"
        return format_html('<span class="ar-num ar-nowrap">{}</span>{}', interval, "" if row.enough else ", not enough data")

    @display(description="Last error")
    def last_error(self, variant: AgentVariant) -> str:
        if not variant.error_id:
            return "–"
        url = reverse("admin:rewards_interaction_change", args=[variant.error_id])
        text = variant.error_message or "failed"
        return format_html('<a class="ar-bad" href="{}">{}</a>', url, text if len(text) <= 60 else text[:59] + "…")
