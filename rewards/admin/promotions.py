"""A variant's life in the admin: the history of decisions, and the buttons that make them."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import action, display

from adaptrag.common import confirmation
from adaptrag.common.admin import ReadOnlyAdmin
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from agents.models import AgentVariant
from rewards.admin.interactions import AgentFilter
from rewards.models import Canary, PromotionDecision
from rewards.services import canary_standing, rollback_target, variant_next, variant_promote, variant_retire, variant_rollback

SHOWN = 8
LABELS = {
    "promoted": "success", "grew": "success", "restored": "success", "rejected": "danger", "rolled_back": "danger",
    "paused": "danger", "needs_human": "warning", "waits": "warning", "retired": "", "moved": "info",
}  # fmt: skip
_WORDS = {PromotionDecision.Verdict(verdict).label: label for verdict, label in LABELS.items()}
STATES = AgentVariant.State.values


def life_of(variant: AgentVariant) -> dict[str, Any]:
    """What the panel on a variant's page shows."""
    canary = Canary.objects.select_related("variant", "incumbent").filter(pk=variant.pk).first()
    decisions = list(variant.decisions.select_related("rollback_to", "variant", "user")[: SHOWN + 1])
    return {
        "variant": variant,
        "states": [(state, state == variant.state, STATES.index(state) < STATES.index(variant.state)) for state in STATES],
        "canary": canary,
        "standing": canary_standing(canary) if canary else None,
        "next": variant_next(variant),
        "rollback": rollback_possible(variant),
        "decisions": [(one, LABELS[one.verdict]) for one in decisions[:SHOWN]],
        "more": len(decisions) > SHOWN,
    }


def rollback_possible(variant: AgentVariant) -> bool:
    if variant.state == AgentVariant.State.ACTIVE:
        return rollback_target(variant) is not None
    return variant.state == AgentVariant.State.CANARY


class LifeActions:
    """Buttons of a variant's page. Each asks, says what follows, takes a reason, and calls the service that the API calls."""

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list:
        variant = self.get_object(request, object_id)
        offered = super().get_actions_detail(request, object_id)
        if variant is None:
            return offered
        state, states = variant.state, AgentVariant.State
        hidden = {
            *(() if state in (states.CANDIDATE, states.CANARY) else ("promote",)),
            *(() if rollback_possible(variant) else ("rollback",)),
            *(() if state == states.RETIRED else ("activate",)),  # the others are promoted
        }
        return [one for one in offered if one.path not in hidden]

    @action(description="Promote", icon="upgrade", url_path="promote", permissions=["change"])
    def promote(self, request: HttpRequest, object_id: str) -> HttpResponse:
        variant = self._variant(request, object_id)
        step = variant_next(variant)
        if step is None:
            messages.error(request, f"{variant} is {variant.state}; only candidates and canaries are promoted.")
            return redirect(_page(variant))
        effects = [step.told]
        if step.grows:
            effects.append("The guard goes on watching it.")
        elif step.to_state == AgentVariant.State.CANARY:
            effects.append("It gets a small share of the questions; a guard takes it back if it is worse than its incumbent.")
        else:
            effects.append("Its share is bounded no more. An older revision of the same agent retires; a rollback restores it.")
        if not step.ready:
            effects.append("Nothing says yet that it is good enough: this sets the rule aside, under your name and reason.")
        # What the page said is what is done: a step that needs no override now must not become one by the time of the click.
        override = request.POST.get("override", "" if step.ready else "yes") == "yes"
        question = Question(
            title=f"Let the share of {variant} grow?" if step.grows else f"Make {variant} {step.to_state}?",
            effects=effects,
            button=step.words.capitalize() if step.ready else f"Override, and {step.words}",
            danger=not step.ready,
            reason="optional" if step.ready else "required",
            hidden={"override": "yes" if override else "no"},
        )
        return self._decide(
            request,
            variant,
            question,
            lambda reason: variant_promote(variant, reason=reason, user=request.user, override=override),
        )

    @action(description="Roll back", icon="undo", url_path="rollback", permissions=["change"])
    def rollback(self, request: HttpRequest, object_id: str) -> HttpResponse:
        variant = self._variant(request, object_id)
        question = Question(
            title=f"Roll {variant} back?",
            effects=[
                f"{variant} retires and gets no more questions.",
                "Who answered before it is put back in its place; what both learned stays.",
            ],
            button="Roll back",
            reason="required",
        )
        return self._decide(
            request, variant, question, lambda reason: variant_rollback(variant, reason=reason, user=request.user)
        )

    def _decide(self, request: HttpRequest, variant: AgentVariant, question: Question, service: Any) -> HttpResponse:
        back = _page(variant)
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            decision = service(request.POST.get("reason", ""))
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        self.log_change(request, variant, f"{decision.get_verdict_display().capitalize()}: {decision.reason}"[:250])
        variant.refresh_from_db()
        messages.success(request, f"{variant} is {variant.state}.")
        return redirect(back)

    def _move(self, request: HttpRequest, variant: AgentVariant, state: str, question: Question) -> HttpResponse:
        if state != AgentVariant.State.RETIRED:
            return super()._move(request, variant, state, question)
        asked = Question(**{**question.__dict__, "reason": "required"})
        return self._decide(request, variant, asked, lambda reason: variant_retire(variant, reason=reason, user=request.user))


@admin.register(PromotionDecision)
class PromotionDecisionAdmin(ReadOnlyAdmin):
    list_display = ("time", "agent", "step", "verdict_label", "why", "who")
    list_display_links = ("time",)
    list_filter = ("verdict", AgentFilter, "override")
    list_select_related = ("variant", "rollback_to", "user")
    search_fields = ("reason", "variant__name", "decided_by")
    fields = ("at", "agent", "step", "verdict_label", "reason", "who", "override", "back", "figures_table")
    readonly_fields = fields
    empty_hint = "Each step of a variant's life is kept here: through the gate, as a canary, active, back or retired."

    @display(description="Time", ordering="id")
    def time(self, decision: PromotionDecision) -> str:
        at = timezone.localtime(decision.at)
        return format_html('<time class="ar-num ar-nowrap" datetime="{}">{}</time>', at.isoformat(), f"{at:%d %b %H:%M}")

    @display(description="Agent", ordering="variant__name")
    def agent(self, decision: PromotionDecision) -> str:
        return _link(decision.variant)

    @display(description="Step")
    def step(self, decision: PromotionDecision) -> str:
        if decision.from_state == decision.to_state:
            return decision.from_state
        return f"{decision.from_state} → {decision.to_state}"

    @display(description="Verdict", ordering="verdict", label=_WORDS)
    def verdict_label(self, decision: PromotionDecision) -> str:
        return decision.get_verdict_display()

    @display(description="Reason")
    def why(self, decision: PromotionDecision) -> str:
        return format_html('<span class="ar-clip2">{}</span>', decision.reason)

    @display(description="By", ordering="decided_by")
    def who(self, decision: PromotionDecision) -> str:
        return f"{decision.who}, override" if decision.override else decision.who

    @display(description="Answers after a rollback")
    def back(self, decision: PromotionDecision) -> str:
        return _link(decision.rollback_to) if decision.rollback_to else "–"

    @display(description="Figures")
    def figures_table(self, decision: PromotionDecision) -> str:
        if not decision.figures:
            return "–"
        return format_html(
            '<pre style="white-space: pre-wrap">{}</pre>', json.dumps(decision.figures, indent=2, ensure_ascii=False)
        )


def _page(variant: AgentVariant) -> str:
    return reverse("admin:agents_agentvariant_change", args=[variant.pk])


def _link(variant: AgentVariant) -> str:
    return format_html('<a class="text-link ar-nowrap" href="{}">{}</a>', _page(variant), variant)
