"""Quantizations in the admin: started, watched, laid side by side, chosen with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.models import Job
from agents.models import ModelArtifact
from training.admin.rows import LIVE, STATE_LABELS, link
from training.models import QuantizationChoice, QuantizationReport
from training.quantization import MODES
from training.selectors import builds, pareto, quality_of, quality_words
from training.services import (
    QuantizationRequest,
    quantization_cancel,
    quantization_choose,
    quantization_resume,
    quantization_start,
)
from training.services.quantizations import AGENT

MEGA = 1e6


class StartForm(forms.Form):
    adapter = forms.ModelChoiceField(
        queryset=ModelArtifact.objects.filter(kind=ModelArtifact.Kind.ADAPTER).order_by("-id"), required=False,
        empty_label="none: the model alone", widget=UnfoldAdminSelectWidget,
    )  # fmt: skip
    model = forms.CharField(
        required=False, max_length=300, widget=UnfoldAdminTextInputWidget,
        help_text="Where no adapter is chosen: smollm2 (if empty), a folder, or a hub name.",
    )  # fmt: skip
    mode = forms.ChoiceField(
        choices=[(mode.name, f"{mode.name}: {mode.title}") for mode in MODES.values()], widget=UnfoldAdminSelectWidget
    )
    agent = forms.CharField(
        required=False, max_length=64, initial=AGENT, widget=UnfoldAdminTextInputWidget,
        help_text="Agent whose candidate the build becomes; empty for none.",
    )  # fmt: skip


class ChoiceForm(forms.Form):
    reason = forms.CharField(
        max_length=2000,
        widget=UnfoldAdminTextareaWidget,
        help_text="Whoever comes after you will ask. It is kept with your name.",
    )


@admin.register(QuantizationReport)
class QuantizationReportAdmin(ReadOnlyAdmin):
    list_display = ("title", "mode", "of", "state", "memory", "speed", "eight", "likeness", "chosen", "created_at")
    list_filter = ("mode",)
    list_select_related = ("job", "artifact", "adapter", "variant")
    list_before_template = "admin/training/quantizationreport/builds.html"
    change_form_template = "admin/training/quantizationreport/page.html"
    fields = ("adapter_link", "artifact_link", "variant_link", "base_model", "precision", "agent", "created_by", "created_at")
    readonly_fields = ("adapter_link", "artifact_link", "variant_link")
    actions_list = ("start",)
    empty_hint = "A quantization makes a model small and fast. Start one; its build becomes a candidate of quantized_rag."

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        names = ("status", "cancel", "resume", "choose")
        own = [
            path(f"<int:pk>/{name}/", view(getattr(self, f"{name}_view")), name=f"training_quantizationreport_{name}")
            for name in names
        ]
        return [*own, *super().get_urls()]

    @action(description="Quantize", icon="compress", url_path="start", permissions=["start"])
    def start(self, request: HttpRequest) -> HttpResponse:
        back = reverse("admin:training_quantizationreport_changelist")
        form = StartForm(request.POST or None, initial={"mode": QuantizationRequest.mode, "agent": AGENT})
        if request.method == "POST" and form.is_valid():
            values = form.cleaned_data
            try:
                report = quantization_start(
                    QuantizationRequest(
                        adapter=values["adapter"], model=values["model"], mode=values["mode"], agent=values["agent"],
                        register=bool(values["agent"]), user=request.user,
                    )
                )  # fmt: skip
            except AdaptRAGError as error:
                form.add_error(error.details.get("field") if error.details.get("field") in form.fields else None, error.message)
            else:
                self.log_addition(request, report, "Started.")
                return redirect(reverse("admin:training_quantizationreport_change", args=[report.pk]))
        intro = (
            "The adapter is merged into its model, the result is rounded, loaded anew and compared with the unquantized model. "
            "It takes some minutes on the queue “long”."
        )
        return self._form(request, form, title="Quantize a model", button="Start", icon="compress", back=back, intro=intro)

    def has_start_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("training.add_quantizationreport")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        reports = builds()
        choice = QuantizationChoice.objects.select_related("report__artifact", "created_by").first()
        more = {"chart": chart(reports, choice), "choice": choice}
        return super().changelist_view(request, {**(extra_context or {}), **more})

    @display(description="Quantization", ordering="id")
    def title(self, report: QuantizationReport) -> str:
        return str(report)

    @display(description="Of")
    def of(self, report: QuantizationReport) -> str:
        return str(report.adapter or report.base_model)

    @display(description="State", label=STATE_LABELS)
    def state(self, report: QuantizationReport) -> str:
        if report.job is None:
            return "succeeded" if report.artifact_id else "cleaned up"
        if report.job.state == Job.State.SUCCEEDED and report.artifact_id is None:
            return "failed"  # in an improvement, which went on without a build
        return report.job.state

    @display(description="Memory, MB")
    def memory(self, report: QuantizationReport) -> str:
        return f"{report.figures['weights_bytes'] / MEGA:.0f}" if report.figures else "–"

    @display(description="Tokens/s")
    def speed(self, report: QuantizationReport) -> str:
        return f"{report.figures['decode_tokens_per_second']:.1f}" if report.figures else "–"

    @display(description="Eight at once")
    def eight(self, report: QuantizationReport) -> str:
        return f"{report.figures['decode_8_tokens_per_second']:.0f}" if report.figures else "–"

    @display(description="Quality")
    def likeness(self, report: QuantizationReport) -> str:
        if found := report.quality.get("token_f1"):
            return f"F1 {found['value']:.2f} ({found['difference']:+.2f})"
        return f"{report.fidelity['answers_overlap']:.2f} alike" if report.fidelity else "–"

    @display(description="Chosen")
    def chosen(self, report: QuantizationReport) -> str:
        newest = QuantizationChoice.objects.first()
        return "chosen" if newest is not None and newest.report_id == report.pk else ""

    @display(description="Adapter")
    def adapter_link(self, report: QuantizationReport) -> str:
        return link(report.adapter)

    @display(description="Build")
    def artifact_link(self, report: QuantizationReport) -> str:
        return link(report.artifact)

    @display(description="Candidate")
    def variant_link(self, report: QuantizationReport) -> str:
        return link(report.variant)

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        report = self.get_object(request, object_id)
        template = "admin/training/quantizationreport/status.html"
        shown = {"status": render_to_string(template, self._status(report), request)} if report else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def status_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The head of the page while it works."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        report = get_object_or_404(QuantizationReport, pk=pk)
        return TemplateResponse(request, "admin/training/quantizationreport/status.html", self._status(report))

    def _status(self, report: QuantizationReport) -> dict[str, Any]:
        state = self.state(report)
        fidelity = report.fidelity and report.fidelity | {
            "overlap": f"{report.fidelity['answers_overlap']:.0%}",
            "agreement": f"{report.fidelity['agreement']:.0%}",
        }
        return {
            "report": report,
            "state": state,
            "label": STATE_LABELS.get(state, ""),
            "live": state in LIVE,
            "percent": round(100 * report.job.progress) if report.job else 100,
            "rows": figure_rows(report),
            "fidelity": fidelity,
            "quality": quality_words(report) if report.quality else [],
            "choices": report.choices.select_related("created_by"),
        }

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(
            request, pk, "Cancel", "It stops within seconds; what is built stays for a resume.", quantization_cancel
        )

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._asked(request, pk, "Resume", "It goes on from the stage that it was in.", quantization_resume)

    def _asked(self, request: HttpRequest, pk: int, verb: str, effect: str, service: Any) -> HttpResponse:
        report = self._report(request, pk)
        refusal = "" if self.has_start_permission(request) else "It takes the permission to add quantizations."
        back = reverse("admin:training_quantizationreport_change", args=[pk])
        question = Question(title=f"{verb} {report}?", effects=[effect], button=verb, danger=verb == "Cancel", refusal=refusal)
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            service(report)
        except AdaptRAGError as error:
            messages.error(request, error.message)
        return redirect(back)

    def choose_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        report = self._report(request, pk)
        if not self.has_start_permission(request):
            raise PermissionDenied
        back = reverse("admin:training_quantizationreport_change", args=[pk])
        form = ChoiceForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                quantization_choose(report, reason=form.cleaned_data["reason"], user=request.user)
            except AdaptRAGError as error:
                messages.error(request, error.message)
            else:
                self.log_change(request, report, "Chosen.")
            return redirect(back)
        intro = f"You choose {report.artifact} among the builds. This is noted; it changes no traffic."
        return self._form(request, form, title=f"Choose {report}", button="Choose", icon="check", back=back, intro=intro)

    def _report(self, request: HttpRequest, pk: int) -> QuantizationReport:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(QuantizationReport, pk=pk)

    def _form(self, request: HttpRequest, form: forms.Form, **words: Any) -> HttpResponse:
        return TemplateResponse(
            request, "admin/evals/form.html", {**self.admin_site.each_context(request), "form": form, **words}
        )


_FIGURES = (
    ("On disk, MB", "bytes_on_disk", MEGA, 0),
    ("Memory of weights, MB", "weights_bytes", MEGA, 0),
    ("Peak memory, MB", "peak_memory_bytes", MEGA, 0),
    ("Load, seconds", "load_seconds", 1, 1),
    ("Reading, tokens/s", "prefill_tokens_per_second", 1, 0),
    ("Writing, tokens/s", "decode_tokens_per_second", 1, 1),
    ("Reading eight prompts, tokens/s", "prefill_8_tokens_per_second", 1, 0),
    ("Writing eight at once, tokens/s", "decode_8_tokens_per_second", 1, 0),
    ("First token, ms, p50", "first_token_ms.p50", 1, 0),
    ("First token, ms, p95", "first_token_ms.p95", 1, 0),
    ("Whole answer, ms, p50", "latency_ms.p50", 1, 0),
    ("Whole answer, ms, p95", "latency_ms.p95", 1, 0),
    ("Perplexity", "perplexity", 1, 2),
)


def figure_rows(report: QuantizationReport) -> list[tuple[str, str, str, str]]:
    """Name, the build's figure, the unquantized model's, and their ratio, as the page shows them."""
    rows = []
    for name, key, unit, digits in _FIGURES:
        build, before = (_at(figures, key) for figures in (report.figures, report.unquantized))
        if build is not None and before is not None:
            ratio = f"{build / before:.2f}" if before else "–"
            rows.append((name, f"{build / unit:,.{digits}f}", f"{before / unit:,.{digits}f}", ratio))
    return rows


def _at(figures: dict[str, Any], key: str) -> float | None:
    name, _, part = key.partition(".")
    value = figures.get(name)
    return value.get(part) if part and value else value


def chart(reports: Sequence[QuantizationReport], choice: QuantizationChoice | None) -> dict[str, Any]:
    """Points by memory and speed, sized by quality, and the Pareto front as a line. Empty where there is no build."""
    if not reports:
        return {}

    def point(report: QuantizationReport) -> dict[str, Any]:
        return {
            "x": round(report.figures["weights_bytes"] / MEGA, 1),
            "y": report.figures["decode_tokens_per_second"],
            "quality": round(quality_of(report), 3),
            "name": f"{report.artifact} ({report.adapter or report.base_model})",
        }

    best = sorted((point(report) for report in pareto(reports)), key=lambda one: one["x"])
    modes = sorted({report.mode for report in reports})
    sets: list[dict[str, Any]] = [
        {
            "label": mode,
            "data": [point(report) for report in reports if report.mode == mode],
            "backgroundColor": f"var(--ar-hue-{index % 8 + 1})",
            "borderColor": "var(--ar-ink)",
            "chosen": [choice is not None and choice.report_id == report.pk for report in reports if report.mode == mode],
        }
        for index, mode in enumerate(modes)
    ]
    sets.append(
        {
            "label": "Pareto front",
            "data": best,
            "front": True,
            "borderColor": "var(--ar-axis)",
            "backgroundColor": "var(--ar-axis)",
        }
    )
    return {"datasets": sets}
