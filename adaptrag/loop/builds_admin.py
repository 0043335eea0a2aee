"""What the evaluations add to the pages of quantizations: the button that carries a run's findings to the report."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from unfold.widgets import UnfoldAdminSelectWidget

from adaptrag.builds import quantization_quality_from
from adaptrag.common.errors import AdaptRAGError
from evals.models import EvalRun
from training.admin.quantizations import QuantizationReportAdmin
from training.models import QuantizationReport


class RunForm(forms.Form):
    eval_run = forms.ModelChoiceField(
        queryset=EvalRun.objects.none(), label="Eval run", widget=UnfoldAdminSelectWidget,
        help_text="It must be done, and have asked an agent with this build and one with the unquantized model.",
    )  # fmt: skip

    def __init__(self, report: QuantizationReport, *args: Any) -> None:
        super().__init__(*args)
        asked = EvalRun.objects.filter(state=EvalRun.State.DONE, variants__artifact=report.artifact)
        self.fields["eval_run"].queryset = asked.distinct().order_by("-pk") if report.artifact else asked.none()


class EvaluatedBuildAdmin(QuantizationReportAdmin):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.quality_view)
        return [path("<int:pk>/quality/", view, name="training_quantizationreport_quality"), *super().get_urls()]

    def quality_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        report = self._report(request, pk)
        if not self.has_start_permission(request):
            raise PermissionDenied
        back = reverse("admin:training_quantizationreport_change", args=[pk])
        form = RunForm(report, *([request.POST] if request.method == "POST" else []))
        if form.is_valid():
            try:
                quantization_quality_from(report, form.cleaned_data["eval_run"])
            except AdaptRAGError as error:
                form.add_error("eval_run", error.message)
            else:
                self.log_change(request, report, f"Quality from {form.cleaned_data['eval_run']}.")
                return redirect(back)
        intro = "Token F1, and the judge's score where one judged, with paired intervals, stand in the report from then on."
        words = {"title": f"Quality of {report}", "button": "Take it over", "icon": "rule", "back": back, "intro": intro}
        return self._form(request, form, **words)


admin.site.unregister(QuantizationReport)
admin.site.register(QuantizationReport, EvaluatedBuildAdmin)
