"""The page of judges: how far each agrees with gold answers and with people."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from evals.admin.pages import reliability
from evals.selectors import judge_calibrations


def judges_page(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("evals.view_evalrun"):
        raise PermissionDenied
    judges = [
        (one, reliability({"gold answers": one.gold.reliability, "people": one.people.reliability}))
        for one in judge_calibrations()
    ]
    context = {**admin.site.each_context(request), "title": "Judges", "judges": judges}
    return TemplateResponse(request, "admin/evals/judges.html", context)
