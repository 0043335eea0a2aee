"""The page of findings: what the log says about how to do better, and the click that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse

from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError, InvalidInput, NotFound
from agents.models import AgentVariant
from agents.selectors import LIVE_STATES, collection_for
from agents.services import collection_set_top_k
from evals.services import evalset_from_interactions
from rewards.findings import RATE, Action, Finding
from rewards.models import RoutingPolicy
from rewards.self_improver import Report, improvement_questions, improvement_report
from rewards.services import agent_pause, prior_set, variant_retire

EVAL_SET = "hard-cases"
DONE = "Improvement: "  # begins the log entries that the page lists as its history
KEPT = 300  # seconds; an analysis reads thousands of answers
_CACHE = "improvement-report"

PERMISSIONS = {
    "pause": "rewards.change_agentlimit",
    "retire": "agents.change_agentvariant",
    "prior": "rewards.change_priorreward",
    "top_k": "agents.change_collection",
    "eval_set": "evals.add_evalset",
}
EFFECTS = {
    "pause": "It gets no routed question until somebody resumes it; a caller can still name it.",
    "retire": "This revision is retired and answers no more. Its interactions stay, and the decision is kept with its reason.",
    "prior": "The next decision uses the new prior. Its mean comes from ratings that the arm counts already: they count a "
    "second time, as so many pulls more, so that the router follows them sooner and surer than by themselves.",
    "top_k": "Questions asked without top_k get it from now on; a caller can still send another.",
    "eval_set": f"The questions make the next version of the eval set “{EVAL_SET}”; corrections become their gold answers.",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A finding as the page shows it; refusal says why its action can't be taken by this user."""

    finding: Finding
    url: str
    refusal: str


def improvement_apply(finding: Finding, user: Any) -> Model:
    """Do what a finding's action names, by the service that a form would call; returns the row that it changed."""
    action, values = finding.action, finding.action.values
    if action.kind == "pause":
        return agent_pause(values["agent_name"], user=user)
    if action.kind == "prior":
        return prior_set(**values, user=user)
    if action.kind == "retire":
        variant = AgentVariant.objects.filter(
            name=values["agent_name"], revision=values["revision"], state__in=LIVE_STATES
        ).first()
        if variant is None:
            raise NotFound(f"{values['agent_name']} r{values['revision']} answers no more; there is nothing to retire.")
        return variant_retire(variant, reason=finding.title, user=user).variant
    if action.kind == "top_k":
        return collection_set_top_k(collection_for(values["collection"]), values["top_k"], user)
    questions = improvement_questions(values)
    if not questions:
        raise InvalidInput("No question of the last 30 days is badly rated in this way, so there is nothing to add.")
    return evalset_from_interactions(EVAL_SET, questions, origin=f"{DONE}{action.label}", user=user)


def improvement_page(request: HttpRequest) -> HttpResponse:
    """Findings, strongest first, each with its interval and its action; what was done here before."""
    if not request.user.has_perm("rewards.view_interaction"):
        raise PermissionDenied
    report = _report(fresh="fresh" in request.GET)
    lines = [
        Line(
            finding=one,
            url=f"{reverse('admin_improve_act')}?{urlencode({'finding': one.key})}" if one.action else "",
            refusal=_refusal(request, one.action) if one.action else "",
        )
        for one in report.findings
    ]
    entries = LogEntry.objects.filter(change_message__startswith=DONE).select_related("user", "content_type")
    context = {
        **admin.site.each_context(request),
        "title": "Improve",
        "report": report,
        "lines": lines,
        "rate": RATE,
        "history": entries.order_by("-action_time")[:10],
        "done": DONE,
    }
    return TemplateResponse(request, "admin/console/improve.html", context)


def act_page(request: HttpRequest) -> HttpResponse:
    """Ask, then carry out the action of a finding that still stands."""
    back = reverse("admin_improve")
    key = request.GET.get("finding", "")
    finding = next((one for one in _report().findings if one.key == key and one.action), None)
    if finding is None:
        messages.warning(request, "That finding no longer stands; nothing was changed.")
        return redirect(back)
    question = Question(
        title=f"{finding.action.label}?",
        effects=[f"{finding.title}. {finding.detail}", EFFECTS[finding.action.kind]],
        button=finding.action.label,
        danger=finding.action.kind in ("pause", "retire"),
        refusal=_refusal(request, finding.action),
    )
    if page := confirmation.ask(request, question, back=back, admin=admin.site.get_model_admin(RoutingPolicy)):
        return page
    try:
        row = improvement_apply(finding, request.user)
    except AdaptRAGError as error:
        messages.error(request, error.message)
        return redirect(back)
    LogEntry.objects.log_actions(request.user.pk, [row], CHANGE, change_message=f"{DONE}{finding.action.label}")
    cache.delete(_CACHE)
    messages.success(request, f"Done: {finding.action.label}.")
    return redirect(back)


def _report(*, fresh: bool = False) -> Report:
    report = None if fresh else cache.get(_CACHE)
    if report is None:
        report = improvement_report()
        cache.set(_CACHE, report, KEPT)
    return report


def _refusal(request: HttpRequest, action: Action) -> str:
    permission = PERMISSIONS[action.kind]
    return "" if request.user.has_perm(permission) else f"This takes the permission {permission}."
