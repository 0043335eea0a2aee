"""The agents' pages with what was learned: traffic, mean reward, last error, and the priors of each category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import CharField, OuterRef, QuerySet, Subquery, Sum
from django.db.models.fields.json import KT
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.inlines.admin import NonrelatedTabularInline
from unfold.contrib.inlines.forms import NonrelatedInlineModelFormSet
from unfold.decorators import display
from unfold.views import ChangeList

from agents.admin import AgentVariantAdmin
from agents.classifier import CATEGORIES
from agents.models import AgentVariant
from rewards.admin.promotions import LifeActions, life_of
from rewards.bandit import ArmEvidence
from rewards.bandit.posterior import beta_posterior, credible_interval
from rewards.leaderboard import ENOUGH, leaderboard
from rewards.models import BanditArm, Interaction, PriorReward
from rewards.rollup.read import log_series
from rewards.services import prior_set

TRAFFIC_PERIOD = timedelta(days=7)


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


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A variant's mean reward over all categories with its 95 % interval, and its share of the recent traffic."""

    n: int
    mean: float | None
    low: float | None
    high: float | None
    share: float | None


def learned(variants: Sequence[int]) -> dict[int, Learned]:
    """By variant id. Two queries, neither of which reads the log; the share is of whole hours, comparisons left out."""
    arms = BanditArm.objects.filter(variant__in=variants).order_by().values_list("variant")
    sums = {pk: (round(n), total) for pk, n, total in arms.annotate(n=Sum("pulls"), total=Sum("total"))}
    asked = {pk: sums.interactions for pk, sums in log_series([timezone.now() - TRAFFIC_PERIOD])[0].items()}
    counts = [sums.get(pk, (0, 0.0))[0] for pk in variants]
    totals = [min(max(sums.get(pk, (0, 0.0))[1], 0.0), n) for pk, n in zip(variants, counts, strict=True)]
    if not variants:
        return {}
    lows, highs = credible_interval(*beta_posterior(ArmEvidence(pulls=counts, totals=totals)))
    figures = {}
    for pk, n, total, low, high in zip(variants, counts, totals, lows, highs, strict=True):
        mean = total / n if n else None
        interval = (None, None) if mean is None else (min(float(low), mean), max(float(high), mean))
        share = asked.get(pk, 0) / sum(asked.values()) if any(asked.values()) else None
        figures[pk] = Learned(n=n, mean=mean, low=interval[0], high=interval[1], share=share)
    return figures


class LearnedChangeList(ChangeList):
    """Puts what was learned beside the agents of the page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        figures = learned([variant.pk for variant in self.result_list])
        for variant in self.result_list:
            variant.learned = figures[variant.pk]


@admin.register(AgentVariant)
class LearningAgentAdmin(LifeActions, AgentVariantAdmin):
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
    actions_detail = ("enable", "disable", "promote", "rollback", "activate", "retire")
    change_form_outer_before_template = "admin/rewards/learned.html"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        asked = [row for row in leaderboard() if str(row.variant_id) == object_id and row.interactions]
        variant = self.get_object(request, object_id)
        shown = {"learned": asked, "may_decide": self.has_change_permission(request, variant)}
        shown |= {"life": life_of(variant)} if variant and request.method == "GET" else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

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

    @display(description="Traffic, 7 days")
    def traffic(self, variant: AgentVariant) -> str:
        share = variant.learned.share
        if not share:
            return "–"
        url = f"{reverse('admin:rewards_interaction_changelist')}?agent={variant.name}"
        return format_html('<a class="text-link ar-num" href="{}">{} %</a>', url, f"{100 * share:.0f}")

    @display(description="Mean reward, 95 %")
    def mean_reward(self, variant: AgentVariant) -> str:
        row = variant.learned
        if row.mean is None:
            return "not enough data"
        interval = f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f}), n {row.n}"
        return format_html(
            '<span class="ar-num ar-nowrap">{}</span>{}', interval, "" if row.n >= ENOUGH else ", not enough data"
        )

    @display(description="Last error")
    def last_error(self, variant: AgentVariant) -> str:
        if not variant.error_id:
            return "–"
        url = reverse("admin:rewards_interaction_change", args=[variant.error_id])
        text = variant.error_message or "failed"
        return format_html('<a class="ar-bad" href="{}">{}</a>', url, text if len(text) <= 60 else text[:59] + "…")
