"""What was learned and what steers it: arms (read-only), priors, routing policies."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.parameter_forms import ParameterFields
from agents.classifier import CATEGORIES
from agents.models import AgentVariant
from rewards.bandit import POLICIES
from rewards.leaderboard import ENOUGH
from rewards.models import BanditArm, PriorReward, RoutingPolicy
from rewards.services import policy_activate, policy_save, prior_set

PARAMETERS = ParameterFields(POLICIES, selector="kind")


@admin.register(BanditArm)
class BanditArmAdmin(ReadOnlyAdmin):
    list_display = ("arm", "category", "agent", "mean", "n", "total_label", "updated_at")
    list_filter = ("category", "variant__name")
    list_select_related = ("variant",)
    list_per_page = 100
    ordering = ("category", "-pulls")
    empty_hint = "An arm is an agent in a category; it appears with the first rating that counts for it."
    empty_link = ("chat", "Ask and rate")

    @display(description="Arm")
    def arm(self, arm: BanditArm) -> str:
        return str(arm)

    @display(description="Agent", ordering="variant__name")
    def agent(self, arm: BanditArm) -> str:
        return str(arm.variant)

    @display(description="Mean reward")
    def mean(self, arm: BanditArm) -> str:
        if not arm.pulls:
            return "not enough data"
        mean = f"{arm.total / arm.pulls:.3f}"
        return mean if arm.pulls >= ENOUGH else f"{mean}, not enough data"

    @display(description="Pulls (n)", ordering="pulls")
    def n(self, arm: BanditArm) -> str:
        return f"{arm.pulls:g}"

    @display(description="Sum of rewards", ordering="total")
    def total_label(self, arm: BanditArm) -> str:
        return f"{arm.total:.3f}"


class PriorForm(forms.ModelForm):
    class Meta:
        model = PriorReward
        fields = ("agent_name", "category", "pulls", "total")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "category" in self.fields:
            choices = [(name, name) for name in CATEGORIES]
            self.fields["category"] = forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget(choices=choices))
        if "agent_name" in self.fields:
            names = AgentVariant.objects.order_by("name").values_list("name", flat=True).distinct()
            choices = [(name, name) for name in names]
            self.fields["agent_name"] = forms.ChoiceField(
                label="Agent", choices=choices, widget=UnfoldAdminSelectWidget(choices=choices)
            )


@admin.register(PriorReward)
class PriorRewardAdmin(SimpleHistoryAdmin, ModelAdmin):
    """Evidence assumed before any rating. The next decision uses what is saved here."""

    form = PriorForm
    list_display = ("agent_name", "category", "pulls", "total", "mean", "updated_at")
    list_display_links = ("agent_name",)
    list_editable = ("pulls", "total")
    list_filter = ("agent_name", "category")
    list_per_page = 100
    history_list_display = ("pulls", "total")
    empty_hint = "Without priors every agent starts equal. Set one where you know beforehand that an agent suits a category."

    def get_readonly_fields(self, request: HttpRequest, obj: PriorReward | None = None) -> tuple[str, ...]:
        return ("agent_name", "category") if obj else ()

    def save_model(self, request: HttpRequest, obj: PriorReward, form: forms.ModelForm, change: bool) -> None:
        saved = prior_set(category=obj.category, agent_name=obj.agent_name, pulls=obj.pulls, total=obj.total, user=request.user)
        obj.__dict__.update(saved.__dict__)

    @display(description="Mean")
    def mean(self, prior: PriorReward) -> str:
        return f"{prior.total / prior.pulls:.2f}" if prior.pulls else "–"


class BasePolicyForm(forms.ModelForm):
    class Meta:
        model = RoutingPolicy
        fields = ("name", "kind", "min_share", "sticky_sessions", "judges_count", "latency_weight", "cost_weight")
        widgets = {"name": UnfoldAdminTextInputWidget}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial.update(PARAMETERS.initial(self.instance.kind, self.instance.parameters))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        self.instance.parameters = PARAMETERS.collect(cleaned.get("kind", ""), cleaned)
        return cleaned

    def _update_errors(self, errors: ValidationError) -> None:
        """The model speaks of its parameters as one; here each has a field."""
        for message in errors.error_dict.pop("parameters", []) if hasattr(errors, "error_dict") else []:
            text = str(message.message)
            self.add_error(next((key for key in PARAMETERS.names if f"{key.removeprefix('parameter_')}=" in text), None), text)
        super()._update_errors(errors)


PolicyForm = type("PolicyForm", (BasePolicyForm,), PARAMETERS.form_fields())


@admin.register(RoutingPolicy)
class RoutingPolicyAdmin(SimpleHistoryAdmin, ModelAdmin):
    """The rule that picks an agent. One is active; the others wait."""

    form = PolicyForm
    list_display = ("name", "state_label", "rule", "floor", "judges", "revision", "since", "updated_at")
    conditional_fields = PARAMETERS.conditions
    readonly_fields = ("active", "revision", "learn_since")
    actions_detail = ("activate",)
    history_list_display = ("kind", "parameters", "min_share", "latency_weight", "cost_weight", "active", "learn_since")

    def get_fieldsets(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> list:
        first = ["name", "kind", *([("active", "revision"), "learn_since"] if obj else [])]
        return [
            (None, {"fields": first}),
            ("Parameters", {"fields": PARAMETERS.names, "description": "An empty field takes the rule's default."}),
            ("Traffic", {"fields": ["min_share", "sticky_sessions"]}),
            (
                "What counts as a reward",
                {
                    "fields": ["judges_count", "latency_weight", "cost_weight"],
                    "description": "The mean rating, less these for time and cost. A change recounts the arms from the log.",
                },
            ),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> tuple[str, ...]:
        return self.readonly_fields if obj else ()

    def revert_disabled(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> bool:
        return True

    def has_delete_permission(self, request: HttpRequest, obj: RoutingPolicy | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.active)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # it would take the active one along
        return actions

    @display(description="State", label={"active": "success", "waiting": ""})
    def state_label(self, policy: RoutingPolicy) -> str:
        return "active" if policy.active else "waiting"

    @display(description="Rule")
    def rule(self, policy: RoutingPolicy) -> str:
        try:
            return POLICIES[policy.kind].from_parameters(policy.parameters).describe()
        except (KeyError, ValueError) as error:
            return f"invalid: {error}"

    @display(description="Least share", ordering="min_share")
    def floor(self, policy: RoutingPolicy) -> str:
        return f"{100 * policy.min_share:g} %"

    @display(description="Judges' ratings", ordering="judges_count")
    def judges(self, policy: RoutingPolicy) -> str:
        return "count" if policy.judges_count else "do not count"

    @display(description="Ratings count since", ordering="learn_since", empty_value="the beginning")
    def since(self, policy: RoutingPolicy) -> Any:
        return policy.learn_since

    def save_model(self, request: HttpRequest, obj: RoutingPolicy, form: forms.ModelForm, change: bool) -> None:
        policy_save(obj, user=request.user)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list:
        policy = self.get_object(request, object_id)
        return [] if policy is None or policy.active else super().get_actions_detail(request, object_id)

    @action(description="Activate", icon="play_arrow", url_path="activate", permissions=["change"])
    def activate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        policy = self.get_object(request, object_id)
        if policy is None:
            raise Http404
        former = RoutingPolicy.objects.filter(active=True).first()
        effects = [
            f"{policy} routes every question from now on, instead of {former}." if former else f"{policy} routes from now on.",
            "What was learned stays: the arms and priors are the same for every policy.",
        ]
        if former and former.judges_count != policy.judges_count:
            word = "count" if policy.judges_count else "no longer count"
            effects.append(f"Judges' ratings {word} with it.")
        if former and former.evidence_rule() != policy.evidence_rule():
            effects.append("It turns ratings into evidence in another way, so the arms are recounted from the log.")
        question = Question(title=f"Activate {policy}?", effects=effects, button="Activate", danger=False)
        back = reverse("admin:rewards_routingpolicy_change", args=[policy.pk])
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            policy_activate(policy, user=request.user)
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        self.log_change(request, policy, "Activated.")
        messages.success(request, f"{policy.name} routes from now on.")
        return redirect(back)
