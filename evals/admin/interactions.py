"""What evaluation adds to the list of interactions: "Add to eval set" and "Let the judge rate"."""

from __future__ import annotations

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from adaptrag.common.errors import AdaptRAGError
from evals.admin.forms import AddToSetForm
from evals.models import EvalSet
from evals.selectors import rater_notes
from evals.services import evalset_from_interactions, interactions_judge
from rewards.admin.interactions import RATER_NOTES, InteractionAdmin
from rewards.models import Interaction

CHANGELIST = "admin:rewards_interaction_changelist"


@admin.action(description="Add to eval set")
def add_to_eval_set(
    model_admin: InteractionAdmin, request: HttpRequest, queryset: QuerySet[Interaction]
) -> HttpResponse | None:
    if not request.user.has_perm("evals.add_evalset"):
        raise PermissionDenied
    form = AddToSetForm(request.POST if "name" in request.POST else None)
    if form.is_bound and form.is_valid():
        try:
            eval_set = evalset_from_interactions(
                form.cleaned_data["name"], queryset.prefetch_related("rewards"), user=request.user
            )
        except AdaptRAGError as error:
            form.add_error("name", error.message)
        else:
            link = format_html(
                '<a class="text-link" href="{}">{}</a>', reverse("admin:evals_evalset_change", args=[eval_set.pk]), eval_set
            )
            messages.success(request, format_html("{} holds {} questions.", link, eval_set.questions_count))
            return None
    context = {
        **admin.site.each_context(request),
        "title": "Add to eval set",
        "intro": f"{queryset.count():,} logged questions; corrections by people become their gold answers.",
        "form": form,
        "names": EvalSet.objects.order_by("name").values_list("name", flat=True).distinct(),
        "button": "Add",
        "icon": "playlist_add",
        "back": reverse(CHANGELIST),
        "hidden": [("action", "add_to_eval_set")]
        + [(ACTION_CHECKBOX_NAME, str(pk)) for pk in queryset.values_list("pk", flat=True)],
    }
    return TemplateResponse(request, "admin/evals/form.html", context)


@admin.action(description="Let the judge rate")
def let_the_judge_rate(model_admin: InteractionAdmin, request: HttpRequest, queryset: QuerySet[Interaction]) -> None:
    if not request.user.has_perm("evals.add_evalrun"):
        raise PermissionDenied
    try:
        job = interactions_judge(queryset.values_list("pk", flat=True), user=request.user)
    except AdaptRAGError as error:
        messages.error(request, error.message)
        return
    link = format_html('<a class="text-link" href="{}">a job</a>', reverse("admin:common_job_change", args=[job.pk]))
    messages.success(request, format_html("The judge rates them in {}.", link))


RATER_NOTES.append(rater_notes)
InteractionAdmin.actions = [*(InteractionAdmin.actions or ()), add_to_eval_set, let_the_judge_rate]
