"""POST, GET /api/documents; GET, DELETE /api/documents/{id}."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db.models import Count, QuerySet
from django.http import HttpResponse
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from adaptrag.api.authentication import caller
from adaptrag.api.errors import TooLarge
from adaptrag.common.errors import AdaptRAGError, InvalidInput, NotFound
from agents.models import Collection, Document, DocumentImage
from agents.selectors import image_path
from agents.services import collection_get_or_create, document_add, document_delete


class UnknownDocument(NotFound):
    code = "unknown_document"


class UnknownImage(NotFound):
    code = "unknown_image"


class DocumentSerializer(serializers.ModelSerializer):
    collection = serializers.CharField(source="collection.name")
    chunks = serializers.IntegerField(source="chunk_count", help_text="Passages.")

    class Meta:
        model = Document
        fields = [
            "id", "collection", "source", "title", "content_type", "sha256", "size", "state", "error", "chunks", "metadata",
            "created_at", "updated_at",
        ]  # fmt: skip


class UploadSerializer(serializers.Serializer):
    file = serializers.FileField(help_text="Text, HTML, PDF, DOCX, PPTX, XLSX, CSV, TSV, JSON lines, PNG, JPEG or WebP.")
    collection = serializers.CharField(
        required=False, max_length=64, help_text="Made if new; the default collection if absent."
    )
    source = serializers.CharField(
        required=False,
        max_length=1000,
        help_text="Identifies it: the same source again replaces it. The file's name if absent.",
    )


class UploadedSerializer(serializers.Serializer):
    document = DocumentSerializer()
    created = serializers.BooleanField()
    changed = serializers.BooleanField(help_text="False: the same bytes were there already.")
    job = serializers.IntegerField(allow_null=True, help_text="The queue's job that indexes it, where one is needed.")


class DocumentFilter(filters.FilterSet):
    collection = filters.CharFilter(field_name="collection__name")
    state = filters.ChoiceFilter(choices=Document.State.choices)
    source = filters.CharFilter(field_name="source", lookup_expr="icontains")

    class Meta:
        model = Document
        fields = ["collection", "state", "source"]


@contextmanager
def _collection(name: str) -> Iterator[Collection]:
    """The collection of that name. One that was made for a file that is then refused goes again."""
    known = Collection.objects.filter(name=name).exists()
    collection = collection_get_or_create(name)
    try:
        yield collection
    except AdaptRAGError:
        if not known:
            Collection.objects.filter(pk=collection.pk, documents=None).delete()
        raise


class _Visible:
    """The documents that the key may see."""

    queryset = Document.objects.none()  # names the model for the schema
    serializer_class = DocumentSerializer

    def get_queryset(self) -> QuerySet[Document]:
        rows, visible = Document.objects.select_related("collection"), caller(self.request).collections
        if visible is not None:
            rows = rows.filter(collection__name__in=visible)
        return rows.annotate(chunk_count=Count("chunks")).order_by("-id")


class DocumentsView(_Visible, generics.ListAPIView):
    operator_methods = ("POST",)
    parser_classes = [MultiPartParser]
    filter_backends = [filters.DjangoFilterBackend]
    filterset_class = DocumentFilter

    def filter_queryset(self, queryset: QuerySet[Document]) -> QuerySet[Document]:
        known = [*DocumentFilter.base_filters, "page", "page_size"]
        if unknown := sorted(set(self.request.query_params) - set(known)):
            raise InvalidInput(f"Unknown parameter {unknown[0]!r}; known are {', '.join(known)}.", field=unknown[0])
        return super().filter_queryset(queryset)

    @extend_schema(operation_id="documents")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Documents, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="document_upload", request=UploadSerializer, responses={201: UploadedSerializer, 200: UploadedSerializer}
    )
    def post(self, request: Request) -> Response:
        """Upload a file. 201: new; 200: its source was there, and its content is replaced if it differs."""
        serializer = UploadSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        fields, file = serializer.validated_data, serializer.validated_data["file"]
        name = caller(request).collection_name(fields.get("collection")) or settings.ADAPTRAG_DEFAULT_COLLECTION
        if file.size > settings.ADAPTRAG_MAX_UPLOAD_BYTES:
            raise TooLarge(f"{file.name} has {file.size:,} bytes; at most {settings.ADAPTRAG_MAX_UPLOAD_BYTES:,} are taken.")
        with _collection(name) as collection:
            result = document_add(
                collection=collection, name=file.name, data=file.read(), source=fields.get("source"),
                content_type=file.content_type or "", user=request.user,
            )  # fmt: skip
        document = self.get_queryset().get(pk=result.document.pk)
        body = {"document": document, "created": result.created, "changed": result.changed, "job": result.job and result.job.pk}
        return Response(UploadedSerializer(body).data, status=201 if result.created else 200)


class DocumentView(_Visible, generics.RetrieveAPIView):
    operator_methods = ("DELETE",)

    def get_object(self) -> Document:
        document = self.get_queryset().filter(pk=self.kwargs["document_id"]).first()
        if document is None:
            raise UnknownDocument(f"There is no document {self.kwargs['document_id']} that you may see.")
        return document

    @extend_schema(operation_id="document")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One document."""
        return super().get(request, *args, **kwargs)

    @extend_schema(operation_id="document_delete", responses={204: None})
    def delete(self, request: Request, document_id: int) -> Response:
        """Take a document out: its file, its passages, and their entries in every index."""
        document_delete(self.get_object())
        return Response(status=204)


class ImageView(APIView):
    """The image that a source speaks of (`image_id`), as JPEG."""

    @extend_schema(operation_id="image", responses={(200, "image/jpeg"): OpenApiTypes.BINARY})
    def get(self, request: Request, image_id: int) -> HttpResponse:
        image = DocumentImage.objects.select_related("document__collection").filter(pk=image_id).first()
        if image is None or not caller(request).sees(image.document.collection):
            raise UnknownImage(f"There is no image {image_id} that you may see.")
        return HttpResponse(image_path(image).read_bytes(), content_type=image.content_type)
