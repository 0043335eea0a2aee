"""Addresses of the site."""

from django.contrib import admin
from django.urls import include, path

from adaptrag.api.metrics import MetricsView

urlpatterns = [
    path("", include("adaptrag.console.urls")),
    path("admin/", admin.site.urls),
    path("api/", include("adaptrag.api.urls")),
    path("v1/", include("adaptrag.api.openai_urls")),
    path("metrics", MetricsView.as_view(), name="metrics"),
]

handler400 = "adaptrag.api.errors.bad_request"
handler403 = "adaptrag.api.errors.permission_denied"
handler404 = "adaptrag.api.errors.page_not_found"
handler500 = "adaptrag.api.errors.server_error"
