"""GET /api/schema, /api/docs. They tell nothing about what is stored here, so anyone may read them without a key."""

from __future__ import annotations

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.request import Request
from rest_framework.response import Response


@cache
def description() -> dict[str, Any]:
    """The OpenAPI description; made once a process, because it takes a second."""
    return SchemaGenerator().get_schema(request=None, public=True)


class SchemaView(SpectacularAPIView):
    authentication_classes = []
    permission_classes = []
    renderer_classes = [OpenApiJsonRenderer2]

    def _get_schema_response(self, request: Request) -> Response:
        return Response(description())


class DocsView(SpectacularSwaggerView):
    authentication_classes = []
    permission_classes = []
    url_name = "api:schema"
