"""Prometheus: what was asked, who answered, how long it took, what users thought of it; and who may read it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import prometheus_client
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django_prometheus.exports import ExportToDjangoView
from django_prometheus.middleware import Metrics
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from adaptrag.api.errors import ClientGone
from adaptrag.api.permissions import HasScope
from adaptrag.common.errors import AdaptRAGError

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)

QUERIES = prometheus_client.Counter("adaptrag_queries", "Questions answered.", ["agent", "category", "mode"])
FAILURES = prometheus_client.Counter("adaptrag_query_failures", "Questions that got an error instead of an answer.", ["code"])
SECONDS = prometheus_client.Histogram("adaptrag_answer_seconds", "From question to answer.", ["agent"], buckets=BUCKETS)
FALLBACKS = prometheus_client.Counter("adaptrag_fallbacks", "Answers by another chat model than the agent's own.", ["agent"])
TOKENS = prometheus_client.Counter("adaptrag_tokens", "Tokens as the backends counted them.", ["agent", "kind"])
FEEDBACK = prometheus_client.Counter("adaptrag_feedback", "Ratings received.", ["source", "outcome"])


class RequestMetricsMiddleware:
    """Requests by view, method and status, and their times: the two of django-prometheus's twenty metrics that tell something
    here. All of them cost 0.2 ms a request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.metrics = Metrics.get_instance()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        begun = time.perf_counter()
        response = self.get_response(request)
        view = (request.resolver_match and request.resolver_match.view_name) or "<unnamed view>"
        method = request.method if request.method in METHODS else "<invalid method>"
        self.metrics.requests_latency_by_view_method.labels(view, method).observe(time.perf_counter() - begun)
        self.metrics.responses_by_status_view_method.labels(str(response.status_code), view, method).inc()
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        self.metrics.exceptions_by_type.labels(type(exception).__name__).inc()


def count_query(result: Any) -> None:
    """Count an orchestrator.QueryResult."""
    agent = result.agent
    QUERIES.labels(agent, result.category, result.routing["mode"]).inc()
    SECONDS.labels(agent).observe(result.latency_ms / 1000)
    for kind in ("prompt_tokens", "completion_tokens"):
        if count := result.usage.get(kind):
            TOKENS.labels(agent, kind).inc(count)
    if result.fallback:
        FALLBACKS.labels(agent).inc()


def count_failure(error: Exception) -> None:
    if not isinstance(error, ClientGone):
        FAILURES.labels(error.code if isinstance(error, AdaptRAGError) else "internal_error").inc()


class MetricsAccess(HasScope):
    """ADAPTRAG_METRICS: `operator` asks for that scope, `open` leaves it to the network, `off` has no such page."""

    def has_permission(self, request: Request, view: Any) -> bool:
        match settings.ADAPTRAG_METRICS:
            case "open":
                return True
            case "operator":
                return super().has_permission(request, view)
        raise Http404


@extend_schema(exclude=True)
class MetricsView(APIView):
    permission_classes = [MetricsAccess]
    operator_methods = ("GET",)
    site_wide = True

    def get(self, request: Request) -> HttpResponse:
        return ExportToDjangoView(request)
