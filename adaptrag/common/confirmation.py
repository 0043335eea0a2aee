"""The page between a click in the admin and a change that can't be taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the operator is asked. `effects` say what will happen, one sentence each; `refusal` why it can't.

    reason: "optional" or "required" where a text goes along as POST's `reason`. hidden: fields of the form that come back.
    """

    title: str
    effects: Sequence[str]
    button: str
    danger: bool = True
    refusal: str = ""
    reason: str = ""
    hidden: Mapping[str, str] = field(default_factory=dict)


def ask(
    request: HttpRequest, question: Question, *, back: str, admin: ModelAdmin, rows: Sequence[Any] = (), action: str = ""
) -> HttpResponse | None:
    """None once the operator has confirmed; until then the page that asks.

    A link to an action leads here by GET, so following it changes nothing; the page's own form POSTs with its CSRF token.
    `rows` and `action` carry the selection of a change list's bulk action from the first request to the second.
    """
    confirmed = request.method == "POST" and request.POST.get("confirmed") == "yes" and not question.refusal
    silent = question.reason == "required" and not request.POST.get("reason", "").strip()
    if confirmed and not silent:
        return None
    context = {
        **admin.admin_site.each_context(request),
        "title": question.title,
        "question": question,
        "reason_missing": confirmed and silent,
        "back": back,
        "rows": rows,
        "action": action,
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
    }
    return TemplateResponse(request, "admin/confirm.html", context)
