"""Collections and the versions of their indexes."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from agents.models import Chunk, Collection, Document, IndexBuild
from agents.services import collection_index_enqueue, collection_save

BUILD_LABELS = {"ready": "success", "building": "info", "failed": "danger"}


def _counted(rows: QuerySet, by: str) -> Coalesce:
    """How many of `rows` belong to each collection, as a subquery: joins would multiply documents by passages."""
    counted = rows.filter(**{by: OuterRef("pk")}).order_by().values(by).annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted, IntegerField()), 0)


@admin.register(Collection)
class CollectionAdmin(ModelAdmin):
    list_display = ("name", "documents_link", "passages", "index", "language", "top_k", "description")
    search_fields = ("name", "description")
    list_select_related = ("current_build",)
    fields = ("name", "description", "language", "top_k")
    empty_hint = "A collection is a set of documents that is searched as one. The first upload makes the default one."
    actions = None  # deleting several at once is not worth the risk
    actions_detail = ("upload", "rebuild")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        queryset = super().get_queryset(request)
        return queryset.annotate(
            document_count=_counted(Document.objects.all(), "collection"),
            passage_count=_counted(Chunk.objects.all(), "document__collection"),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Collection | None = None) -> tuple[str, ...]:
        return ("name", "documents_link", "passages", "index", "derived_text", "created_at") if obj else ()

    def get_fields(self, request: HttpRequest, obj: Collection | None = None) -> tuple[str, ...]:
        return (*self.fields, "documents_link", "passages", "index", "derived_text", "created_at") if obj else self.fields

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list, dict, set, list]:
        """Counts instead of the default's tree, which would load every passage."""
        collections = list(objs)
        documents = Document.objects.filter(collection__in=collections).count()
        passages = Chunk.objects.filter(document__collection__in=collections).count()
        needed = set()
        if documents and not request.user.has_perm("agents.delete_document"):
            needed.add(Document._meta.verbose_name_plural)
        counts = {"collections": len(collections), "documents": documents, "passages": passages, "indexes": len(collections)}
        return [str(one) for one in collections], counts, needed, []

    @display(description="Documents", ordering="document_count")
    def documents_link(self, collection: Collection) -> str:
        if not collection.document_count:
            url, text = f"{reverse('admin:agents_document_add')}?collection={collection.name}", "none yet: upload some"
        else:
            url = f"{reverse('admin:agents_document_changelist')}?collection__id__exact={collection.pk}"
            text = str(collection.document_count)
        return format_html('<a class="text-link" href="{}">{}</a>', url, text)

    @display(description="Passages", ordering="passage_count")
    def passages(self, collection: Collection) -> int:
        return collection.passage_count

    @display(description="Index")
    def index(self, collection: Collection) -> str:
        build = collection.current_build
        if build is None:
            return "none yet"
        url = reverse("admin:agents_indexbuild_change", args=[build.pk])
        text = f"build {build.pk}, {build.chunks:,} passages, {filesizeformat(build.bytes_on_disk)}"
        return format_html('<a class="text-link" href="{}">{}</a>', url, text)

    @display(description="Besides passages")
    def derived_text(self, collection: Collection) -> str:
        rows = [
            f"{row.get_kind_display()}: {row.items:,}, {filesizeformat(row.bytes_on_disk)}" for row in collection.derived.all()
        ]
        return "; ".join(rows) or "nothing: no enabled agent searches sentences, children or a graph"

    def save_model(self, request: HttpRequest, obj: Collection, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        collection_save(obj, request.user)
        if "language" in form.changed_data:
            self._start(request, obj, "The language changed, so the index is built again.")

    @action(description="Upload documents", icon="upload", url_path="upload", permissions=["upload"])
    def upload(self, request: HttpRequest, object_id: str) -> HttpResponse:
        name = self._collection(request, object_id).name
        return redirect(f"{reverse('admin:agents_document_add')}?collection={name}")

    def has_upload_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("agents.add_document")

    @action(description="Rebuild the index", icon="build", url_path="rebuild", permissions=["change"])
    def rebuild(self, request: HttpRequest, object_id: str) -> HttpResponse:
        collection = self._collection(request, object_id)
        question = Question(
            title=f"Rebuild the index of {collection}?",
            effects=[
                f"A job embeds and indexes {collection.passage_count:,} passages; the present one serves until then.",
                "Needed after a change of the embedding model, or for a damaged index. Uploads are indexed by themselves.",
            ],
            button="Rebuild",
            danger=False,
            refusal="" if collection.passage_count else "There is no passage to index. Upload documents first.",
        )
        back = reverse("admin:agents_collection_change", args=[collection.pk])
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        self._start(request, collection, "The index is being built.")
        self.log_change(request, collection, "Index rebuild started.")
        return redirect(back)

    def _start(self, request: HttpRequest, collection: Collection, words: str) -> None:
        job = collection_index_enqueue(collection, user=request.user, force=True)
        url = reverse("admin:common_job_change", args=[job.pk])
        messages.success(request, format_html('{} <a href="{}" class="text-link">Watch the job</a>', words, url))

    def _collection(self, request: HttpRequest, object_id: str) -> Collection:
        collection = self.get_object(request, object_id)
        if collection is None:
            raise Http404
        return collection


@admin.register(IndexBuild)
class IndexBuildAdmin(ReadOnlyAdmin):
    list_display = ("build", "collection", "state_label", "chunks", "embedding_model", "size", "took", "created_at", "error")
    list_filter = ("collection", "state")
    list_select_related = ("collection__current_build",)
    empty_hint = "Uploading documents builds the index of their collection."

    @display(description="Build", ordering="id")
    def build(self, build: IndexBuild) -> str:
        return f"build {build.pk}" + (f", newer passages beside build {build.base_id}" if build.base_id else "")

    @display(description="State", ordering="state", label={**BUILD_LABELS, "serving": "success", "superseded": ""})
    def state_label(self, build: IndexBuild) -> str:
        if build.state == IndexBuild.State.READY:
            current = build.collection.current_build
            return "serving" if current and build.pk in (current.pk, current.base_id) else "superseded"
        return build.state

    @display(description="On disk", ordering="bytes_on_disk")
    def size(self, build: IndexBuild) -> str:
        return filesizeformat(build.bytes_on_disk)

    @display(description="Seconds", ordering="seconds")
    def took(self, build: IndexBuild) -> str:
        return f"{build.seconds:.1f}"
