"""One answer of a run, with its passages and its trace; reached from the run's page."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from unfold.decorators import display

from adaptrag.common.admin import ReadOnlyAdmin
from evals.models import EvalResult, EvalRun
from evals.selectors import judge_calibration


@admin.register(EvalResult)
class EvalResultAdmin(ReadOnlyAdmin):
    list_display = ("question", "variant", "run", "score_label", "latency_ms")
    list_select_related = ("question", "variant", "run__eval_set")
    list_filter = ("run__eval_set__name",)
    change_form_template = "admin/evals/evalresult/page.html"
    empty_hint = "Answers appear here one by one while a run is under way."

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found, known, runs = super().get_changelist_instance(request), {}, {}
        for result in found.result_list:
            if result.run_id not in runs:
                judged = result.run.judge == EvalRun.Judge.LLM
                runs[result.run_id] = not judged or judge_calibration(result.run, known).calibrated
            result.judge_calibrated = runs[result.run_id]
        return found

    @display(description="Score", ordering="score")
    def score_label(self, result: EvalResult) -> str:
        if result.score is None:
            return "failed" if result.failed else "unscored"
        return f"{result.score:.3f}{'' if result.judge_calibrated else ', judge not calibrated'}"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        result = self.get_object(request, object_id)
        shown: dict[str, Any] = {}
        if result:
            beside = result.run.results.filter(question=result.question).exclude(pk=result.pk).select_related("variant")
            judged = result.run.judge == EvalRun.Judge.LLM
            shown = {
                "result": result,
                "calibration": judge_calibration(result.run) if judged else None,
                "pair": result.run.pairs.filter(question=result.question, variant=result.variant).first(),
                "beside": beside,
                "metrics": sorted(result.metrics.items()),
                "steps": [_step(step, result.latency_ms) for step in result.trace],
            }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})


def _step(step: dict[str, Any], total: float) -> dict[str, Any]:
    """A trace step with its place on the time line in percent."""
    total = max(total, step.get("at_ms", 0) + step.get("ms", 0), 1e-6)
    hidden = ("step", "at_ms", "ms", "purpose")
    return {
        "step": step.get("step", ""),
        "purpose": step.get("purpose", ""),
        "ms": step.get("ms", 0),
        "left": f"{100 * step.get('at_ms', 0) / total:.2f}",
        "width": f"{max(100 * step.get('ms', 0) / total, 0.4):.2f}",
        "details": {name: value for name, value in step.items() if name not in hidden},
    }
