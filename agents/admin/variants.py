"""Agents as the operator sees them: register, revise, switch on and off, retire."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from adaptrag.common import confirmation
from adaptrag.common.confirmation import Question
from adaptrag.common.errors import AdaptRAGError
from agents.admin.variant_form import PARAMETERS, REGISTERED, VariantForm
from agents.models import AgentVariant
from agents.selectors import live_variants
from agents.services import agent_register, agent_revise, agent_set_enabled, agent_set_state

STATE_LABELS = {"active": "success", "canary": "info", "candidate": "warning", "retired": ""}
_DOING = ("strategy", "chat_backend", "chat_model", "chat_options", "artifact", "parameters", "inherit")


class RevisionFilter(admin.SimpleListFilter):
    """Retired revisions stay out of the list until they are asked for."""

    title = "revisions"
    parameter_name = "revisions"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("all", "all"), ("retired", "retired")]

    def choices(self, changelist: Any) -> Any:
        chosen = self.value()
        for value, title in ((None, "in use"), *self.lookup_choices):
            yield {
                "selected": chosen == value,
                "query_string": changelist.get_query_string(
                    {self.parameter_name: value} if value else {}, [] if value else [self.parameter_name]
                ),
                "display": title,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        retired = AgentVariant.State.RETIRED
        match self.value():
            case "all":
                return queryset
            case "retired":
                return queryset.filter(state=retired)
        return queryset.exclude(state=retired)


class AgentVariantAdmin(SimpleHistoryAdmin, ModelAdmin):
    """What an agent does can't be edited: saving a change registers its next revision."""

    form = VariantForm
    list_display = ("agent", "state_label", "enabled", "strategy", "chat")
    list_filter = (RevisionFilter, "state", "enabled", "strategy")
    search_fields = ("name", "note", "chat_model")
    list_select_related = ("artifact",)
    list_per_page = 50
    conditional_fields = PARAMETERS.conditions
    readonly_fields = ("name", "revision", "state", "enabled", "predecessor", "created_by", "created_at")
    actions = ("enable_selected", "disable_selected")
    actions_detail = ("enable", "disable", "activate", "retire")
    history_list_display = ("state", "enabled", "note")
    warn_unsaved_form = True
    empty_hint = "Register several agents that search and answer differently; the router learns from ratings which to trust."

    def get_fieldsets(self, request: HttpRequest, obj: AgentVariant | None = None) -> list:
        who: list[Any] = ["name", "state", "enabled", "note"]
        revising = ""
        if obj:
            who = [("name", "revision"), ("state", "enabled"), ("predecessor", "created_by", "created_at"), "note"]
            revising = (
                "Saving a change from here on makes the next revision. Interactions keep the revision that answered them."
            )
        does = ["strategy", "chat_backend", "chat_model", "chat_options", "artifact"]
        return [
            (None, {"fields": who}),
            ("What it does", {"fields": does, "description": revising}),
            ("Parameters", {"fields": PARAMETERS.names, "description": "An empty field takes the strategy's default."}),
            ("Evidence", {"fields": ["inherit"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: AgentVariant | None = None) -> tuple[str, ...]:
        return self.readonly_fields if obj else ()

    def revert_disabled(self, request: HttpRequest, obj: AgentVariant | None = None) -> bool:
        return True

    def has_delete_permission(self, request: HttpRequest, obj: AgentVariant | None = None) -> bool:
        return False  # its interactions and what was learned from them stay; retire it instead

    # Lists ------------------------------------------------------------------------------------------------------------

    @display(description="Agent", ordering="name")
    def agent(self, variant: AgentVariant) -> str:
        return format_html('<span class="ar-nowrap">{}</span>', variant)

    @display(description="State", ordering="state", label=STATE_LABELS)
    def state_label(self, variant: AgentVariant) -> str:
        return variant.state

    @display(description="Chat model", ordering="chat_model")
    def chat(self, variant: AgentVariant) -> str:
        model = variant.chat_model or f"default of {variant.get_chat_backend_display()}"
        if variant.artifact is None:
            return model
        page = reverse("admin:agents_modelartifact_change", args=[variant.artifact_id])
        return format_html('{}, <a class="text-link" href="{}">{}</a>', model, page, variant.artifact)

    # Saving -----------------------------------------------------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: AgentVariant, form: VariantForm, change: bool) -> None:
        values = form.cleaned_data
        if not change:
            registered = agent_register(**{name: values[name] for name in REGISTERED}, user=request.user)
            obj.__dict__.update(registered.__dict__)
            return
        stored = AgentVariant.objects.get(pk=obj.pk)
        changes = {name: values[name] for name in _DOING if values[name] != getattr(stored, name)}
        if changes:
            revised = agent_revise(stored, user=request.user, note=values["note"], **changes)
            obj.__dict__.update(revised.__dict__)
            self._tell_revision(request, stored, revised, changes)
        elif values["note"] != stored.note:
            stored.note = values["note"]
            stored._history_user = request.user
            stored.save(update_fields=["note"])

    def _tell_revision(
        self, request: HttpRequest, stored: AgentVariant, revised: AgentVariant, changes: dict[str, Any]
    ) -> None:
        what = "; ".join(
            f"{name.replace('_', ' ')}: {_short(getattr(stored, name))} → {_short(value)}" for name, value in changes.items()
        )
        fate = (
            f"It answers from now on, starts with {revised.inherit:.0%} of the evidence of revision {stored.revision}, and "
            f"retires the older revisions." if revised.state == AgentVariant.State.ACTIVE
            else f"It is {revised.state}, so the older revisions go on answering."
        )  # fmt: skip
        messages.success(request, f"Made revision {revised.revision} of {revised.name}. {what}. {fate}")

    def response_change(self, request: HttpRequest, obj: AgentVariant) -> HttpResponse:
        opened = request.resolver_match.kwargs.get("object_id")
        if opened == str(obj.pk):
            return super().response_change(request, obj)
        return redirect(reverse("admin:agents_agentvariant_change", args=[obj.pk]))

    # Actions ----------------------------------------------------------------------------------------------------------

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list:
        """Only what would change something: an agent that is on is not offered to be switched on."""
        variant = self.get_object(request, object_id)
        if variant is None:
            return []
        hidden = {
            "enable" if variant.enabled else "disable",
            *({"activate"} if variant.state == AgentVariant.State.ACTIVE else ()),
            *({"retire", "enable", "disable"} if variant.state == AgentVariant.State.RETIRED else ()),
        }
        offered = super().get_actions_detail(request, object_id)
        return [one for one in offered if one.path not in hidden]

    @action(description="Enable", icon="toggle_on", url_path="enable", permissions=["change"])
    def enable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._switch(request, self._variant(request, object_id), True)

    @action(description="Disable", icon="toggle_off", url_path="disable", permissions=["change"])
    def disable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._switch(request, self._variant(request, object_id), False)

    @action(description="Activate", icon="play_arrow", url_path="activate", permissions=["change"])
    def activate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        variant = self._variant(request, object_id)
        question = Question(
            title=f"Activate {variant}?",
            effects=[
                f"{variant} becomes active. The newest live revision of {variant.name} is the one that answers.",
                "What it had learned still counts for it.",
            ],
            button="Activate",
            danger=False,
        )
        return self._move(request, variant, AgentVariant.State.ACTIVE, question)

    @action(description="Retire", icon="archive", url_path="retire", permissions=["change"])
    def retire(self, request: HttpRequest, object_id: str) -> HttpResponse:
        variant = self._variant(request, object_id)
        question = Question(
            title=f"Retire {variant}?",
            effects=[
                f"{variant} gets no more questions. Its interactions, ratings and arms stay as they are.",
                "An older revision of the agent answers again if one is live." if self._older_live(variant) else
                f"No other revision of {variant.name} is live, so the agent as a whole stops answering.",
            ],
            button="Retire",
            refusal=_last_agent(variant),
        )  # fmt: skip
        return self._move(request, variant, AgentVariant.State.RETIRED, question)

    @admin.action(description="Enable the selected agents", permissions=["change"])
    def enable_selected(self, request: HttpRequest, queryset: QuerySet) -> None:
        if self._all_switched(request, list(queryset.filter(enabled=False)), True):
            self.message_user(request, "The selected agents take questions.", messages.SUCCESS)

    @admin.action(description="Disable the selected agents", permissions=["change"])
    def disable_selected(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        chosen = list(queryset)
        remaining = [variant for variant in live_variants() if variant not in chosen]
        question = Question(
            title="Disable the selected agents?",
            effects=["They get no more questions until they are enabled again. What was learned about them stays."],
            button="Disable",
            refusal="" if remaining else "No agent would be left to answer questions. Leave at least one enabled.",
        )
        back = reverse("admin:agents_agentvariant_changelist")
        if page := confirmation.ask(request, question, back=back, admin=self, rows=chosen, action="disable_selected"):
            return page
        if self._all_switched(request, chosen, False):
            self.message_user(request, "The selected agents get no more questions.", messages.SUCCESS)
        return None

    def _all_switched(self, request: HttpRequest, variants: list[AgentVariant], enabled: bool) -> bool:
        """All or none."""
        try:
            with transaction.atomic():
                for variant in variants:
                    agent_set_enabled(variant, enabled, user=request.user)
                    self.log_change(request, variant, "Enabled." if enabled else "Disabled.")
        except AdaptRAGError as error:
            self.message_user(request, error.message, messages.ERROR)
            return False
        return True

    def _switch(self, request: HttpRequest, variant: AgentVariant, enabled: bool) -> HttpResponse:
        word = "Enable" if enabled else "Disable"
        question = Question(
            title=f"{word} {variant}?",
            effects=["The router gives it questions again."] if enabled else
            ["The router gives it no more questions, and nobody can choose it. What was learned about it stays."],
            button=word,
            danger=not enabled,
            refusal="" if enabled else _last_agent(variant),
        )  # fmt: skip
        back = reverse("admin:agents_agentvariant_change", args=[variant.pk])
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        if self._all_switched(request, [variant], enabled):
            messages.success(request, f"{variant} is {'enabled' if enabled else 'disabled'}.")
        return redirect(back)

    def _move(self, request: HttpRequest, variant: AgentVariant, state: str, question: Question) -> HttpResponse:
        back = reverse("admin:agents_agentvariant_change", args=[variant.pk])
        if page := confirmation.ask(request, question, back=back, admin=self):
            return page
        try:
            agent_set_state(variant, state, user=request.user)
        except AdaptRAGError as error:
            messages.error(request, error.message)
            return redirect(back)
        self.log_change(request, variant, f"State: {state}.")
        messages.success(request, f"{variant} is {state}.")
        return redirect(back)

    def _variant(self, request: HttpRequest, object_id: str) -> AgentVariant:
        variant = self.get_object(request, object_id)
        if variant is None:
            raise Http404
        return variant

    @staticmethod
    def _older_live(variant: AgentVariant) -> bool:
        return (
            AgentVariant.objects.filter(name=variant.name, enabled=True)
            .exclude(pk=variant.pk)
            .exclude(state__in=[AgentVariant.State.RETIRED, AgentVariant.State.CANDIDATE])
            .exists()
        )


def _last_agent(variant: AgentVariant) -> str:
    """Why the variant can't be taken out of service, if it can't."""
    others = [other for other in live_variants() if other.pk != variant.pk]
    return "" if others else "It is the only agent that takes questions. Enable or register another one first."


def _short(value: Any) -> str:
    text = str(value) if value not in ("", {}, None) else "none"
    return text if len(text) <= 80 else text[:77] + "…"
