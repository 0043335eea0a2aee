"""What if: the value of another policy or other priors, estimated from the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import display
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminSelectWidget

from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.parameter_forms import ParameterFields
from agents.models import AgentVariant
from evals.models import EvalRun, PolicyEstimate
from evals.services.estimates import policyestimate_start
from rewards.bandit import POLICIES
from rewards.models import RoutingPolicy
from rewards.selectors import active_policy

PARAMETERS = ParameterFields(POLICIES, selector="kind")
NAMES = {"ips": "Inverse propensity", "snips": "Self-normalised", "dm": "Direct method", "dr": "Doubly robust"}


class BaseEstimateForm(forms.Form):
    kind = forms.ChoiceField(
        label="Rule", choices=RoutingPolicy.Kind.choices, widget=UnfoldAdminSelectWidget(choices=RoutingPolicy.Kind.choices)
    )
    min_share = forms.FloatField(
        label="Minimum share", min_value=0, max_value=0.5, initial=0.02, widget=UnfoldAdminDecimalFieldWidget,
        help_text="Smallest share of the traffic that every agent would have kept.",
    )  # fmt: skip
    priors = forms.ChoiceField(
        choices=PolicyEstimate.Priors.choices, widget=UnfoldAdminSelectWidget(choices=PolicyEstimate.Priors.choices)
    )
    prior_run = forms.ModelChoiceField(
        EvalRun.objects.none(), label="Of this eval run, in place of the priors that are set", required=False,
        empty_label="none", widget=UnfoldAdminSelectWidget,
    )  # fmt: skip
    run_pulls = forms.FloatField(
        label="each worth so many pulls", min_value=0, max_value=10_000, initial=10, required=False,
        widget=UnfoldAdminDecimalFieldWidget,
    )  # fmt: skip
    prior_agent = forms.ChoiceField(label="And this agent's prior, in every category", required=False)
    prior_pulls = forms.FloatField(
        label="worth so many pulls", min_value=0, max_value=10_000, required=False, widget=UnfoldAdminDecimalFieldWidget
    )
    prior_mean = forms.FloatField(
        label="with this mean reward", min_value=0, max_value=1, required=False, widget=UnfoldAdminDecimalFieldWidget
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        scored = EvalRun.objects.filter(results__score__isnull=False).distinct()
        self.fields["prior_run"].queryset = scored.select_related("eval_set").order_by("-pk")
        names = AgentVariant.objects.order_by("name").values_list("name", flat=True).distinct()
        choices = [("", "as chosen above"), *((name, name) for name in names)]
        self.fields["prior_agent"].widget = UnfoldAdminSelectWidget(choices=choices)
        self.fields["prior_agent"].choices = choices

    def estimate(self) -> PolicyEstimate:
        values = self.cleaned_data
        fields = {name: values[name] for name in ("kind", "min_share", "priors", "prior_agent")}
        if values["priors"] == PolicyEstimate.Priors.RUN:
            pulls = values["run_pulls"]
            fields |= {"prior_run": values["prior_run"], "run_pulls": 10 if pulls is None else pulls}
        if values["prior_agent"]:
            fields |= {"prior_pulls": values["prior_pulls"] or 0, "prior_mean": values["prior_mean"] or 0}
        return PolicyEstimate(parameters=PARAMETERS.collect(values["kind"], values), **fields)


EstimateForm = type("EstimateForm", (BaseEstimateForm,), PARAMETERS.form_fields())


@dataclass(frozen=True, kw_only=True)
class Line:
    """A value with its interval, as the whisker template wants it."""

    name: str
    mean: float
    low: float
    high: float
    enough: bool = True


def verdict(result: dict[str, Any]) -> str:
    """What the estimate allows to say, by the doubly robust interval."""
    if not result["conclusive"]:
        return f"No conclusion can be drawn: {result['complaint']}"
    low, high = next(row["interval"] for row in result["estimates"] if row["estimator"] == "dr")
    logged = result["logged_mean"]
    if low > logged:
        return f"It would probably have earned more: {low:.3f} to {high:.3f} a question, where the log earned {logged:.3f}."
    if high < logged:
        return f"It would probably have earned less: {low:.3f} to {high:.3f} a question, where the log earned {logged:.3f}."
    return f"No difference can be told: {low:.3f} to {high:.3f} a question holds the {logged:.3f} that the log earned."


@admin.register(PolicyEstimate)
class PolicyEstimateAdmin(ReadOnlyAdmin):
    list_display = ("title", "logged", "value", "state_label", "created_at", "created_by")
    list_select_related = ("job", "created_by")
    change_form_template = "admin/evals/policyestimate/page.html"
    empty_hint = (
        "Ask what another policy or other priors would have earned. The answer comes from what was logged, with its doubt; no "
        "traffic is touched."
    )

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("evals.add_policyestimate")

    @display(description="What if")
    def title(self, estimate: PolicyEstimate) -> str:
        return str(estimate)

    @display(description="The log earned")
    def logged(self, estimate: PolicyEstimate) -> str:
        return "–" if estimate.result is None else f"{estimate.result['logged_mean']:.3f}, n {estimate.result['n']}"

    @display(description="It would have earned")
    def value(self, estimate: PolicyEstimate) -> str:
        result = estimate.result
        if result is None:
            return "–"
        if not result["conclusive"]:
            return "not enough overlap"
        row = next(row for row in result["estimates"] if row["estimator"] == "dr")
        return f"{row['value']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"

    @display(description="State", label={"done": "success", "refused": "danger", "running": "info"})
    def state_label(self, estimate: PolicyEstimate) -> str:
        return _state(estimate)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        active = active_policy()
        initial = {"kind": active.kind, "min_share": active.min_share, **PARAMETERS.initial(active.kind, active.parameters)}
        form = EstimateForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            try:
                estimate = policyestimate_start(form.estimate(), user=request.user)
            except AdaptRAGError as error:
                field = error.details.get("field")
                form.add_error(field if field in form.fields else None, error.message)
            else:
                self.log_addition(request, estimate, "Asked.")
                return redirect(reverse("admin:evals_policyestimate_change", args=[estimate.pk]))
        context = {
            **self.admin_site.each_context(request),
            "form": form,
            "title": "What if",
            "button": "Estimate",
            "icon": "query_stats",
            "back": "../",
            "kinds": {kind: PARAMETERS.of(kind) for kind in POLICIES},
            "parameter_names": PARAMETERS.names,
        }
        return TemplateResponse(request, "admin/evals/policyestimate/ask.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        estimate = self.get_object(request, object_id)
        shown = {} if estimate is None else {"estimate": estimate, "state": _state(estimate), **_page(estimate)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})


def _state(estimate: PolicyEstimate) -> str:
    if estimate.result is not None:
        return "done"
    if estimate.error:
        return "refused"
    return "running" if estimate.job is None or estimate.job.is_live else estimate.job.state


def _page(estimate: PolicyEstimate) -> dict[str, Any]:
    result = estimate.result
    if result is None:
        return {}
    lines = [
        Line(name=NAMES[row["estimator"]], mean=row["value"], low=low, high=high, enough=result["conclusive"])
        for row in result["estimates"]
        for low, high in [row["interval"]]
    ]
    return {
        "result": result,
        "verdict": verdict(result),
        "lines": lines,
        "traffic": sorted(result["traffic"].items(), key=lambda pair: -pair[1]),
        "left_out": sorted(result["left_out"].items()),
    }
