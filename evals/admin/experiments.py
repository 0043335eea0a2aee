"""Experiments in the admin: planned, started, watched, ended."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from agents.models import slug_validator
from evals.models import Experiment
from evals.services import (
    ArmReport,
    ExperimentPlan,
    experiment_absent,
    experiment_create,
    experiment_end,
    experiment_report,
    experiment_start,
)

START_EFFECTS = (
    "Sessions get their agents by the shares from now on, each always the same; the rest goes to the bandit.",
    "Ratings move the arms as always; off-policy evaluation leaves these answers out.",
)
END_EFFECTS = ("Its sessions go to the bandit again.", "Its figures stay; it can't be started again.")


class PlanForm(forms.Form):
    name = forms.CharField(max_length=64, validators=[slug_validator], widget=UnfoldAdminTextInputWidget)
    shares = forms.CharField(
        max_length=2000,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "naive_rag 0.1, hybrid_rag 0.1"}),
        help_text="Each agent with its share of the sessions; the first is the baseline. What is left goes to the bandit.",
    )
    difference = forms.FloatField(
        label="Smallest difference worth finding",
        initial=0.1,
        min_value=0.001,
        max_value=1,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="In mean reward. It decides how many rated sessions an agent needs.",
    )
    deviation = forms.FloatField(
        label="Standard deviation of a session's mean reward",
        initial=0.35,
        min_value=0.001,
        max_value=1,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="0.5 where ratings are only 0 and 1.",
    )
    analysis = forms.ChoiceField(
        choices=Experiment.Analysis.choices,
        widget=UnfoldAdminSelectWidget(choices=Experiment.Analysis.choices),
        help_text="A fixed horizon needs fewer sessions; an always-valid analysis may end as soon as it is sure.",
    )

    def clean_shares(self) -> dict[str, float]:
        shares: dict[str, float] = {}
        for part in self.cleaned_data["shares"].split(","):
            found = re.fullmatch(r"\s*([a-z0-9_-]+)[\s:=]+([0-9.]+)\s*", part)
            if found is None or found[1] in shares or found[2].count(".") > 1 or not found[2].strip("."):
                raise ValidationError(f"{part.strip()!r} is no agent with its share, such as: naive_rag 0.1")
            shares[found[1]] = float(found[2])
        return shares


@admin.register(Experiment)
class ExperimentAdmin(ModelAdmin):
    list_display = ("name", "state_label", "split", "analysis", "planned", "started_at", "ended_at")
    list_filter = ("state",)
    change_form_template = "admin/evals/experiment/page.html"
    empty_hint = (
        "An experiment gives fixed shares of the sessions to chosen agents, next to the bandit, and says what was learned. "
        "The bandit alone needs none; it is for questions whose answer must stand by itself."
    )

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/start/", view(self.start_view), name="evals_experiment_start"),
            path("<int:pk>/end/", view(self.end_view), name="evals_experiment_end"),
            *super().get_urls(),
        ]

    def has_change_permission(self, request: HttpRequest, obj: Experiment | None = None) -> bool:
        return False  # a plan that changes is none

    def has_delete_permission(self, request: HttpRequest, obj: Experiment | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.state == Experiment.State.RUNNING)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # it would take a running one along
        return actions

    @display(description="State", label={"running": "info", "ended": "success", "draft": ""})
    def state_label(self, experiment: Experiment) -> str:
        return experiment.state

    @display(description="Split")
    def split(self, experiment: Experiment) -> str:
        return ", ".join(f"{agent} {100 * share:g} %" for agent, share in experiment.shares.items())

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = PlanForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                experiment = experiment_create(ExperimentPlan(**form.cleaned_data, user=request.user))
            except AdaptRAGError as error:
                field = error.details.get("field")
                form.add_error(field if field in form.fields else None, error.message)
            else:
                self.log_addition(request, experiment, "Planned.")
                return redirect(reverse("admin:evals_experiment_change", args=[experiment.pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": "Plan an experiment",
            "form": form,
            "button": "Plan it",
            "icon": "science",
            "back": "../",
        }
        return TemplateResponse(request, "admin/evals/form.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        experiment = self.get_object(request, object_id)
        shown: dict[str, Any] = {}
        if experiment:
            report = experiment_report(experiment)
            shown = {
                "experiment": experiment,
                "report": report,
                "arms": [(arm, _drawn(arm)) for arm in report.arms],
                "absent": experiment_absent(experiment) if experiment.state == Experiment.State.RUNNING else [],
                "left": 1 - sum(experiment.shares.values()),
                "may": request.user.has_perm("evals.change_experiment"),
            }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def start_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "Start", START_EFFECTS, experiment_start)

    def end_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "End", END_EFFECTS, experiment_end)

    def _asked(self, request: HttpRequest, pk: int, verb: str, effects: tuple[str, ...], service: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        experiment = get_object_or_404(Experiment, pk=pk)
        allowed = request.user.has_perm("evals.change_experiment")
        refusal = "" if allowed else "It takes the permission to change experiments."
        question = Question(title=f"{verb} “{experiment}”?", effects=effects, button=verb, danger=False, refusal=refusal)
        back = reverse("admin:evals_experiment_change", args=[pk])
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            service(experiment)
        except AdaptRAGError as error:
            messages.error(request, error.message)
        else:
            self.log_change(request, experiment, f"{verb}ed.")
        return redirect(back)


def _drawn(arm: ArmReport) -> dict[str, Any]:
    """An arm as the whisker template wants it."""
    return {"mean": arm.mean, "low": arm.low, "high": arm.high, "enough": arm.low is not None}
