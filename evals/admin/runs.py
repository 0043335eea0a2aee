"""Runs in the admin: started, watched, read, compared, turned into priors, exported."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display

from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError, InvalidInput
from agents.models import AgentVariant
from evals.admin import pages
from evals.admin.forms import PriorsForm, ResumeForm, RunForm
from evals.gate import evalrun_gate, evalrun_verdict
from evals.models import EvalRun
from evals.selectors import judge_calibration
from evals.services import (
    evalrun_cancel,
    evalrun_csv,
    evalrun_json,
    evalrun_priors,
    evalrun_regressions,
    evalrun_resume,
    evalrun_start,
    evalrun_summary_now,
)
from evals.services.execution import evalrun_spent

STATE_LABELS = {
    "queued": "warning", "running": "info", "done": "success", "stopped": "warning", "cancelled": "", "failed": "danger",
    "interrupted": "danger",
}  # fmt: skip
ITEMS = 20  # questions a page
MOST_COMPARED = 6


@admin.register(EvalRun)
class EvalRunAdmin(ModelAdmin):
    list_display = ("title", "eval_set_label", "agents", "judge_label", "best", "answers", "state_label", "started")
    list_display_links = ("title",)
    list_filter = ("state", "judge", "eval_set__name")
    search_fields = ("name", "eval_set__name")
    list_select_related = ("eval_set", "job")
    list_per_page = 50
    ordering = ("-id",)
    actions = ("compare",)
    change_form_template = "admin/evals/evalrun/page.html"
    empty_hint = "A run asks agents the questions of an eval set and says which differences are real. It touches no traffic."

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        one = [
            ("status", self.status_view),
            ("cancel", self.cancel_view),
            ("resume", self.resume_view),
            ("priors", self.priors_view),
            ("gate", self.gate_view),
            ("export.csv", self.csv_view),
            ("export.json", self.json_view),
        ]
        return [
            path("compare/", view(self.compare_view), name="evals_evalrun_compare"),
            *(path(f"<int:pk>/{name}", view(function), name=f"evals_evalrun_{name}") for name, function in one),
            *super().get_urls(),
        ]

    def has_change_permission(self, request: HttpRequest, obj: EvalRun | None = None) -> bool:
        return False  # a run says what was asked; `has_operate_permission` lets people cancel and resume it

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("evals.change_evalrun")

    # The list ---------------------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[EvalRun]:
        rows = super().get_queryset(request).select_related("eval_set", "job", "collection")
        return rows.prefetch_related("variants").annotate(answer_count=Count("results", filter=Q(results__complete=True)))

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found, known = super().get_changelist_instance(request), {}
        for run in found.result_list:
            run.judge_calibrated = run.judge == EvalRun.Judge.LLM and judge_calibration(run, known).calibrated
        return found

    @display(description="Run", ordering="id", header=True)
    def title(self, run: EvalRun) -> list[str]:
        return [run.name or f"Run {run.pk}", f"no. {run.pk}" if run.name else ""]

    @display(description="Eval set", ordering="eval_set")
    def eval_set_label(self, run: EvalRun) -> str:
        return str(run.eval_set)

    @display(description="Agents")
    def agents(self, run: EvalRun) -> str:
        return ", ".join(variant.label for variant in run.labelled().values())

    @display(description="Judge", ordering="judge")
    def judge_label(self, run: EvalRun) -> str:
        if run.judge != EvalRun.Judge.LLM:
            return run.judge
        return f"{run.judge_model or run.judge_backend}{'' if run.judge_calibrated else ', not calibrated'}"

    @display(description="Best mean score")
    def best(self, run: EvalRun) -> str:
        scored = [row for row in (run.summary or {}).get("agents", ()) if row["score"] is not None]
        if not scored:
            return "–"
        top = max(scored, key=lambda row: row["score"])
        low, high = top["interval"]
        interval = "not enough data" if low is None else f"{low:.2f} to {high:.2f}, n {top['n']}"
        return f"{top['agent']} {top['score']:.2f} ({interval})"

    @display(description="Answers", ordering="answer_count")
    def answers(self, run: EvalRun) -> int:
        return run.answer_count

    @display(description="State", label=STATE_LABELS)
    def state_label(self, run: EvalRun) -> str:
        return run.status

    @display(description="Started", ordering="created_at")
    def started(self, run: EvalRun) -> str:
        return f"{timezone.localtime(run.created_at):%Y-%m-%d %H:%M}"

    @admin.action(description="Compare the selected runs")
    def compare(self, request: HttpRequest, queryset: QuerySet[EvalRun]) -> HttpResponse | None:
        numbers = sorted(queryset.values_list("pk", flat=True))
        if not 2 <= len(numbers) <= MOST_COMPARED:
            self.message_user(request, f"Choose 2 to {MOST_COMPARED} runs, not {len(numbers)}.", messages.WARNING)
            return None
        return redirect(f"{reverse('admin:evals_evalrun_compare')}?runs={','.join(map(str, numbers))}&baseline={numbers[0]}")

    # Starting ---------------------------------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = RunForm(request.POST or None, initial={"eval_set": request.GET.get("set")})
        if request.method == "POST" and form.is_valid():
            try:
                run = evalrun_start(form.request(request.user))
            except AdaptRAGError as error:
                field = error.details.get("field")
                form.add_error(field if field in form.fields else None, error.message)
            else:
                self.log_addition(request, run, "Started.")
                return redirect(reverse("admin:evals_evalrun_change", args=[run.pk]))
        return self._form(request, form, title="Start a run", button="Start the run", icon="play_arrow", back="../")

    def _form(self, request: HttpRequest, form: Any, **context: Any) -> HttpResponse:
        return TemplateResponse(
            request, "admin/evals/form.html", {**self.admin_site.each_context(request), "form": form, **context}
        )

    # One run ----------------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        run = self.get_object(request, object_id)
        shown = self._page(request, run) if run else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def _page(self, request: HttpRequest, run: EvalRun) -> dict[str, Any]:
        summary = evalrun_summary_now(run)
        scores: dict[str, list[float]] = {row["agent"]: [] for row in summary["agents"]}
        points: dict[str, list[tuple[float, float]]] = {agent: [] for agent in scores}
        labels = run.labelled()
        rows = run.results.exclude(score=None).order_by("id").values_list("variant_id", "score", "latency_ms")
        for variant, score, latency in rows:
            scores[labels[variant].label].append(score)
            points[labels[variant].label].append((latency, score))
        paginator = Paginator(pages.ranked_questions(run), ITEMS)
        items = paginator.get_page(request.GET.get("items"))
        names = sorted({name for row in summary["agents"] for name in row["metrics"]})
        return {
            "run": run,
            "summary": summary,
            "agents": [(row, pages.Enough(row=row)) for row in summary["agents"]],
            "metrics": [(name, [row["metrics"].get(name) for row in summary["agents"]]) for name in names],
            "scored": any(scores.values()),
            "distribution": pages.distribution(scores),
            "against_latency": pages.score_against_latency(points),
            "page": items,
            "items": pages.items(run, list(items)),
            **self._status(request, run),
        }

    def _status(self, request: HttpRequest, run: EvalRun) -> dict[str, Any]:
        status = run.status
        live = status in run.LIVE
        allowed = "" if self.has_operate_permission(request) else "It takes the permission to change eval runs."
        cancel = "" if live and run.job is not None else "Only a queued or running run can be cancelled."
        if live and run.job is None:
            cancel = "It was started on the command line; press Ctrl-C there."
        failed = sum(rows.filter(error__isnull=False).count() for rows in (run.results, run.pairs))
        resume = "It is under way." if live else ""
        if status == "done" and not failed:
            resume = "It is done; nothing is missing."
        candidates = [one for one in run.labelled().values() if one.state == AgentVariant.State.CANDIDATE]
        gate = reverse("admin:evals_evalrun_gate", args=[run.pk])
        return {
            "run": run,
            "status": status,
            "label": STATE_LABELS[status],
            "live": live,
            "failed": failed,
            "progress": run.job,
            "percent": round(100 * run.job.progress) if run.job else 0,
            "buttons": [
                ("Cancel", reverse("admin:evals_evalrun_cancel", args=[run.pk]), allowed or cancel),
                (
                    "Ask again what failed" if status == "done" else "Resume",
                    reverse("admin:evals_evalrun_resume", args=[run.pk]),
                    allowed or resume,
                ),
                ("Use as priors", reverse("admin:evals_evalrun_priors", args=[run.pk]), self._priors_refusal(request)),
                *((f"Gate {one}", f"{gate}?variant={one.pk}", self._gate_refusal(request, status)) for one in candidates),
            ],
        }

    def _priors_refusal(self, request: HttpRequest) -> str:
        return "" if request.user.has_perm("rewards.change_priorreward") else "It takes the permission to change priors."

    def _gate_refusal(self, request: HttpRequest, status: str) -> str:
        if not request.user.has_perm("agents.change_agentvariant"):
            return "It takes the permission to change agents."
        return "" if status == "done" else "A gate takes a run that is done."

    def gate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Say what the gate would decide about a candidate that the run asked; then let it decide."""
        run = self._run(request, pk)
        number = request.GET.get("variant", "")
        variant = run.labelled().get(int(number)) if number.isdecimal() and len(number) < 19 else None
        if variant is None:
            raise Http404
        back = reverse("admin:evals_evalrun_change", args=[pk])
        try:
            told = evalrun_verdict(run, variant).reason
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        question = Question(
            title=f"Put {variant} through the gate?",
            effects=[told, "What passes becomes a canary with a small share of the questions; what doesn't stays a candidate."],
            button="Let the gate decide",
            danger=False,
            refusal=self._gate_refusal(request, run.status),
        )
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            decision = evalrun_gate(run, variant, user=request.user)
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        messages.success(request, f"{decision}. {decision.reason}")
        return redirect(reverse("admin:agents_agentvariant_change", args=[variant.pk]))

    def _run(self, request: HttpRequest, pk: int) -> EvalRun:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(self.get_queryset(request), pk=pk)

    def status_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The head of the page while the run is live; a reload of the whole page once it has ended."""
        shown = self._status(request, self._run(request, pk))
        response = TemplateResponse(request, "admin/evals/evalrun/status.html", shown)
        if not shown["live"]:
            response["HX-Refresh"] = "true"
        return response

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        effects = ("Answers that are under way are finished and kept.", "Resuming goes on with what is missing.")
        return self._asked(request, pk, "Cancel", effects, lambda run: evalrun_cancel(run))

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = self._run(request, pk)
        if run.state == EvalRun.State.STOPPED:
            return self._resume_stopped(request, run)
        effects = ("Only what is missing or failed is asked; every saved answer stays.",)
        return self._asked(
            request, pk, "Resume", effects, lambda run: evalrun_resume(run, user=request.user, retry_failed=True)
        )

    def _resume_stopped(self, request: HttpRequest, run: EvalRun) -> HttpResponse:
        """A run that stopped at its budget would stop again at once: the form asks for a larger one."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        back = reverse("admin:evals_evalrun_change", args=[run.pk])
        old = {name: getattr(run, name) for name in ResumeForm.base_fields}
        form = ResumeForm(request.POST or None, initial=old)
        if request.method == "POST" and form.is_valid():
            try:
                evalrun_resume(run, user=request.user, retry_failed=True, **form.cleaned_data)
            except AdaptRAGError as error:
                field = error.details.get("field")
                form.add_error(field if field in form.fields else None, error.message)
            else:
                self.log_change(request, run, "Resume: asked for, with a new budget.")
                return redirect(back)
        tokens, usd = evalrun_spent(run)
        intro = f"It stopped at its budget. The {tokens:,} tokens and {usd:.4f} US dollars spent count towards the new one."
        return self._form(
            request, form, title=f"Resume “{run}”", intro=intro, button="Resume the run", icon="play_arrow", back=back
        )

    def _asked(self, request: HttpRequest, pk: int, verb: str, effects: tuple[str, ...], service: Any) -> HttpResponse:
        run = self._run(request, pk)
        back = reverse("admin:evals_evalrun_change", args=[pk])
        refusal = "" if self.has_operate_permission(request) else "It takes the permission to change eval runs."
        question = Question(
            title=f"{verb} “{run}”?", effects=effects, button=f"{verb} the run", danger=verb == "Cancel", refusal=refusal
        )
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            service(run)
        except AdaptRAGError as error:
            messages.error(request, error.message)
        else:
            self.log_change(request, run, f"{verb}: asked for.")
        return redirect(back)

    def priors_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        run = self._run(request, pk)
        if self._priors_refusal(request):
            raise PermissionDenied
        form = PriorsForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                changed = evalrun_priors(run, pulls=form.cleaned_data["pulls"], user=request.user)
            except AdaptRAGError as error:
                form.add_error(None, error.message)
            else:
                self.log_change(request, run, f"Used as priors worth {form.cleaned_data['pulls']:g} pulls.")
                link = format_html('<a class="text-link" href="{}">priors</a>', reverse("admin:rewards_priorreward_changelist"))
                messages.success(request, format_html("{} {} set; the next question uses them.", changed, link))
                return redirect(reverse("admin:evals_evalrun_change", args=[pk]))
        agents = ", ".join(variant.label for variant in run.labelled().values())
        return self._form(
            request,
            form,
            title=f"Use “{run}” as priors",
            intro=f"The mean scores of {agents}, per category, replace the priors that these agents have there.",
            button="Set the priors",
            icon="balance",
            back=reverse("admin:evals_evalrun_change", args=[pk]),
        )

    def csv_view(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        run = self._run(request, pk)
        return _download(evalrun_csv(run), "text/csv", f"eval-run-{pk}.csv")

    def json_view(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        run = self._run(request, pk)
        return _download([evalrun_json(run)], "application/json", f"eval-run-{pk}.json")

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list, dict, set, list]:
        """Counts instead of the default's tree, which would load every answer."""
        runs = list(objs)
        answers = sum(run.results.count() for run in runs)
        needed = set() if self.has_delete_permission(request) else {self.opts.verbose_name}
        return [str(one) for one in runs], {"runs": len(runs), "answers": answers}, needed, []

    def has_delete_permission(self, request: HttpRequest, obj: EvalRun | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.status in obj.LIVE)

    # Several runs -----------------------------------------------------------------------------------------

    def compare_view(self, request: HttpRequest) -> HttpResponse:
        """Runs side by side; each agent against itself in the baseline run, over the questions that both scored."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        numbers = [int(one) for one in request.GET.get("runs", "").split(",") if one.isdecimal() and len(one) < 10]
        runs = list(self.get_queryset(request).filter(pk__in=numbers[:MOST_COMPARED]).order_by("id"))
        chosen = request.GET.get("baseline", "")
        baseline = next((run for run in runs if str(run.pk) == chosen), runs[0] if runs else None)
        columns, known = [], {}
        for run in runs:
            rows, told = [], ""
            if run != baseline:
                try:
                    rows = evalrun_regressions(run, baseline)
                except InvalidInput as error:
                    told = error.message
            summary = evalrun_summary_now(run, known)
            agents = [(row, pages.Enough(row=row)) for row in summary["agents"]]
            columns.append({"run": run, "agents": agents, "differences": rows, "told": told, "summary": summary})
        context = {
            **self.admin_site.each_context(request),
            "title": "Compare runs",
            "columns": columns,
            "baseline": baseline,
            "numbers": ",".join(str(run.pk) for run in runs),
        }
        return TemplateResponse(request, "admin/evals/evalrun/compare.html", context)


def _download(lines: Any, content_type: str, name: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(lines, content_type=f"{content_type}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
