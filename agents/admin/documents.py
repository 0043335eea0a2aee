"""Documents: many files in one upload, what became of each, and the passages that were cut from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from adaptrag.common.errors import AdaptRAGError
from agents.ingestion.detect import SUFFIXES
from agents.models import Chunk, Collection, Document, slug_validator
from agents.services import collection_get_or_create, collection_refresh, document_add, document_delete, documents_delete

STATE_LABELS = {"ready": "success", "pending": "warning", "failed": "danger"}
ACCEPTED = ",".join(SUFFIXES)
PASSAGES_PER_PAGE = 50


class FilesInput(forms.ClearableFileInput):
    allow_multiple_selected = True


class FilesField(forms.FileField):
    """One or many files; cleans to a list."""

    widget = FilesInput

    def clean(self, data: Any, initial: Any = None) -> list[Any]:
        files = data if isinstance(data, list | tuple) else [data]
        return [super(FilesField, self).clean(one, initial) for one in files]


class UploadForm(forms.Form):
    collection = forms.CharField(
        max_length=64,
        validators=[slug_validator],
        widget=UnfoldAdminTextInputWidget(attrs={"list": "collections", "autocomplete": "off"}),
        help_text="An existing collection, or the name of a new one.",
    )
    files = FilesField(
        allow_empty_file=True,  # the service says so of each such file, and takes the others
        error_messages={"required": "Choose at least one file."},
        widget=FilesInput(attrs={"multiple": True, "accept": ACCEPTED, "class": "ar-files"}),
    )


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What became of one file: a document, or the reason why not."""

    name: str
    document: Document | None = None
    job: Any = None
    created: bool = False
    changed: bool = False
    error: str = ""

    @property
    def note(self) -> str:
        if not self.changed:
            return "nothing new in it"
        return "new" if self.created else "replaced"


@admin.register(Document)
class DocumentAdmin(ModelAdmin):
    list_display = ("name", "collection", "state_label", "passages", "size_label", "updated_at", "problem")
    list_filter = ("collection", "state", "content_type")
    search_fields = ("title", "source")
    list_select_related = ("collection",)
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-id",)
    change_form_after_template = "admin/agents/document/passages.html"
    empty_hint = "Answers come from documents. Upload texts, Office files, tables, images, or run manage.py ingest on a folder."

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        counted = (
            Chunk.objects.filter(document=OuterRef("pk")).order_by().values("document").annotate(n=Count("pk")).values("n")
        )
        return super().get_queryset(request).annotate(passage_count=Coalesce(Subquery(counted, IntegerField()), 0))

    def get_fields(self, request: HttpRequest, obj: Document | None = None) -> list[str]:
        shown = ["title", "source", "collection", "state", "content_type", "size_label", "sha256", "created_at", "updated_at"]
        return [*shown, "problem"] if obj and obj.error else shown

    def get_readonly_fields(self, request: HttpRequest, obj: Document | None = None) -> list[str]:
        return self.get_fields(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Document | None = None) -> bool:
        return False

    @display(description="Document", ordering="title", header=True)
    def name(self, document: Document) -> list[str]:
        return [document.title or document.source, document.source if document.title else ""]

    @display(description="State", ordering="state", label=STATE_LABELS)
    def state_label(self, document: Document) -> str:
        return document.state

    @display(description="Passages", ordering="passage_count")
    def passages(self, document: Document) -> int:
        return document.passage_count

    @display(description="Size", ordering="size")
    def size_label(self, document: Document) -> str:
        return filesizeformat(document.size)

    @display(description="Error")
    def problem(self, document: Document) -> str:
        return document.error or "–"

    # Uploading --------------------------------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        default = request.GET.get("collection") or settings.ADAPTRAG_DEFAULT_COLLECTION
        form = UploadForm(request.POST or None, request.FILES or None, initial={"collection": default})
        results: list[Uploaded] = []
        if request.method == "POST" and form.is_valid():
            results = self._upload(request, form.cleaned_data["collection"], form.cleaned_data["files"])
            if all(one.document for one in results):
                self._tell(request, results)
                return redirect(reverse("admin:agents_document_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Upload documents",
            "form": form,
            "results": results,
            "collections": Collection.objects.values_list("name", flat=True),
            "largest": filesizeformat(settings.ADAPTRAG_MAX_UPLOAD_BYTES),
            "most": settings.DATA_UPLOAD_MAX_NUMBER_FILES,
        }
        return TemplateResponse(request, "admin/agents/document/upload.html", context)

    def _upload(self, request: HttpRequest, collection_name: str, files: list[Any]) -> list[Uploaded]:
        """Small files of a batch are indexed once, together; a large one is read and indexed by a job of its own."""
        fresh = not Collection.objects.filter(name=collection_name).exists()
        collection = collection_get_or_create(collection_name)
        results = [self._upload_one(request, collection, file, alone=len(files) == 1) for file in files]
        added = [one.document for one in results if one.document and one.changed and one.job is None]
        if len(files) > 1 and added:
            passages = Chunk.objects.filter(document__in=added).count()
            if job := collection_refresh(collection, passages, user=request.user):
                results[-1] = dataclasses.replace(results[-1], job=results[-1].job or job)
        if fresh and not any(one.document for one in results):
            collection.delete()
        return results

    def _upload_one(self, request: HttpRequest, collection: Collection, file: Any, *, alone: bool) -> Uploaded:
        try:
            result = document_add(
                collection=collection,
                name=file.name,
                data=file.read(),
                content_type=file.content_type or "",
                user=request.user,
                index=alone or file.size > settings.ADAPTRAG_INLINE_BYTES,
            )
        except AdaptRAGError as error:
            return Uploaded(name=file.name, error=error.message)
        if result.created:
            self.log_addition(request, result.document, f"Uploaded into {collection}.")
        elif result.changed:
            self.log_change(request, result.document, "Uploaded again with new content.")
        return Uploaded(
            name=file.name, document=result.document, job=result.job, created=result.created, changed=result.changed
        )

    def _tell(self, request: HttpRequest, results: list[Uploaded]) -> None:
        changed = [one for one in results if one.changed]
        if len(changed) < len(results):
            messages.info(request, f"{len(results) - len(changed)} of {len(results)} files had nothing new in them.")
        if not changed:
            return
        words = f"{len(changed)} document{'s' if len(changed) > 1 else ''} taken in."
        job = next((one.job for one in reversed(changed) if one.job), None)
        link = (
            format_html(
                ' <a href="{}" class="text-link">Watch the indexing</a>', reverse("admin:common_job_change", args=[job.pk])
            )
            if job
            else ""
        )
        messages.success(request, format_html("{}{}", words, link))

    # One document -----------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        chunks = (
            Chunk.objects.filter(document_id=object_id).order_by("ordinal") if object_id.isdigit() else Chunk.objects.none()
        )
        page = Paginator(chunks, PASSAGES_PER_PAGE).get_page(request.GET.get("passages"))
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "passages": page})

    # Deleting ---------------------------------------------------------------------------------------------------------

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list, dict, set, list]:
        """Counts instead of the default's tree, which would load every passage."""
        documents = list(objs)
        passages = Chunk.objects.filter(document__in=documents).count()
        needed = set() if self.has_delete_permission(request) else {self.opts.verbose_name}
        return [str(one) for one in documents], {"documents": len(documents), "passages": passages}, needed, []

    def delete_model(self, request: HttpRequest, obj: Document) -> None:
        document_delete(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        documents_delete(queryset.select_related("collection"))
