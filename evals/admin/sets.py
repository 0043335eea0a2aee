"""Eval sets in the admin: imported, looked at, exported. What a version holds never changes."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin
from unfold.decorators import display

from adaptrag.common.errors import AdaptRAGError
from evals.admin.forms import SetForm
from evals.models import EvalSet
from evals.services import evalset_default, evalset_export, evalset_upload

QUESTIONS = 50  # a page


@admin.register(EvalSet)
class EvalSetAdmin(ModelAdmin):
    list_display = ("label", "source", "questions_count", "runs_count", "origin", "created_at")
    list_display_links = ("label",)
    list_filter = ("source",)
    search_fields = ("name", "origin")
    list_per_page = 50
    ordering = ("name", "-version")
    change_form_template = "admin/evals/evalset/page.html"
    empty_hint = (
        "Questions to ask agents offline, with gold answers or without. Import a JSON-lines file, take the built-in questions "
        "over the handbook, or choose “Add to eval set” on logged interactions."
    )

    def get_urls(self) -> list[URLPattern]:
        export = self.admin_site.admin_view(self.export_view)
        return [path("<int:pk>/export.jsonl", export, name="evals_evalset_export"), *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[EvalSet]:
        return super().get_queryset(request).annotate(run_count=Count("runs"))

    def has_change_permission(self, request: HttpRequest, obj: EvalSet | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: EvalSet | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj is not None and obj.runs.exists())

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # it would fail at the first set that a run names
        return actions

    @display(description="Eval set", ordering="name")
    def label(self, eval_set: EvalSet) -> str:
        return str(eval_set)

    @display(description="Runs", ordering="run_count")
    def runs_count(self, eval_set: EvalSet) -> int:
        return eval_set.run_count

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = SetForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            try:
                eval_set = self._import(form, request.user)
            except AdaptRAGError as error:
                form.add_error("file", error.message)
            else:
                self.log_addition(request, eval_set, "Imported.")
                messages.success(request, f"{eval_set} holds {eval_set.questions_count:,} questions.")
                return redirect(reverse("admin:evals_evalset_change", args=[eval_set.pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": "Import an eval set",
            "form": form,
            "names": EvalSet.objects.order_by("name").values_list("name", flat=True).distinct(),
            "button": "Import",
            "icon": "upload",
            "back": "../",
        }
        return TemplateResponse(request, "admin/evals/form.html", context)

    def _import(self, form: SetForm, user: Any) -> EvalSet:
        upload = form.cleaned_data["file"]
        if not upload:
            return evalset_default(user=user)
        return evalset_upload(filename=upload.name, chunks=upload.chunks(), name=form.cleaned_data["name"], user=user)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        eval_set = self.get_object(request, object_id)
        shown: dict[str, Any] = {}
        if eval_set:
            questions = Paginator(eval_set.questions.order_by("ordinal"), QUESTIONS).get_page(request.GET.get("questions"))
            versions = EvalSet.objects.filter(name=eval_set.name).exclude(pk=eval_set.pk)
            shown = {"eval_set": eval_set, "page": questions, "versions": versions, "runs": eval_set.runs.all()[:20]}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def export_view(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        eval_set = get_object_or_404(EvalSet, pk=pk)
        lines = (f"{line}\n" for line in evalset_export(eval_set))
        response = StreamingHttpResponse(lines, content_type="application/jsonl; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{eval_set.name}-v{eval_set.version}.jsonl"'
        return response
