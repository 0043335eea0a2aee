"""The operator's bounds on the traffic: each agent's share, and categories that go to one agent."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget

from adaptrag.common.errors import AdaptRAGError
from agents.classifier import CATEGORIES
from agents.models import AgentVariant
from rewards.models import AgentLimit, CategoryPin
from rewards.services import agent_limit_remove, agent_limit_set, category_pin


class _Saved(forms.ModelForm):
    """Saves through the service while it validates, so that what the service refuses stands beside its field."""

    user: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = AgentVariant.objects.order_by("name").values_list("name", flat=True).distinct()
        self._choose("agent_name", [(name, name) for name in names])
        self._choose("category", [(name, name) for name in CATEGORIES])

    def _choose(self, field: str, choices: list[tuple[str, str]]) -> None:
        if field in self.fields:
            label = self.fields[field].label
            self.fields[field] = forms.ChoiceField(
                label=label, choices=choices, widget=UnfoldAdminSelectWidget(choices=choices)
            )

    def service(self) -> Any:
        raise NotImplementedError

    def _post_clean(self) -> None:
        super()._post_clean()
        if self.errors:
            return
        try:
            self.instance.__dict__.update(self.service().__dict__)
        except AdaptRAGError as error:
            field = error.details.get("field")
            self.add_error(field if field in self.fields else None, error.message)


class LimitForm(_Saved):
    class Meta:
        model = AgentLimit
        fields = ("agent_name", "min_share", "max_share", "paused")

    def service(self) -> AgentLimit:
        row = self.instance
        return agent_limit_set(
            agent_name=row.agent_name, min_share=row.min_share, max_share=row.max_share, paused=row.paused, user=self.user
        )


class PinForm(_Saved):
    class Meta:
        model = CategoryPin
        fields = ("category", "agent_name")

    def service(self) -> CategoryPin:
        return category_pin(category=self.instance.category, agent_name=self.instance.agent_name, user=self.user)


class _TrafficAdmin(SimpleHistoryAdmin, ModelAdmin):
    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> type:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (form,), {"user": request.user})

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        """The form has saved it."""

    def revert_disabled(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # it would pass the service by
        return actions


@admin.register(AgentLimit)
class AgentLimitAdmin(_TrafficAdmin):
    form = LimitForm
    list_display = ("agent_name", "least", "largest", "state_label", "updated_at")
    history_list_display = ("min_share", "max_share", "paused")
    empty_hint = (
        "Every agent keeps the policy's minimum share and has no cap. Set a limit to hold a new agent to a part of the "
        "traffic, or to pause one."
    )

    def get_readonly_fields(self, request: HttpRequest, obj: AgentLimit | None = None) -> tuple[str, ...]:
        return ("agent_name",) if obj else ()

    def delete_model(self, request: HttpRequest, obj: AgentLimit) -> None:
        agent_limit_remove(obj.agent_name, user=request.user)

    @display(description="Least share")
    def least(self, limit: AgentLimit) -> str:
        return "the policy's" if limit.min_share is None else f"{100 * limit.min_share:g} %"

    @display(description="Largest share")
    def largest(self, limit: AgentLimit) -> str:
        return "no cap" if limit.max_share is None else f"{100 * limit.max_share:g} %"

    @display(description="State", label={"paused": "warning", "in the traffic": "success"})
    def state_label(self, limit: AgentLimit) -> str:
        return "paused" if limit.paused else "in the traffic"


@admin.register(CategoryPin)
class CategoryPinAdmin(_TrafficAdmin):
    form = PinForm
    list_display = ("category", "agent_name", "updated_at")
    history_list_display = ("agent_name",)
    empty_hint = "The policy chooses in every category. Pin one where all its questions must go to one agent."

    def get_readonly_fields(self, request: HttpRequest, obj: CategoryPin | None = None) -> tuple[str, ...]:
        return ("category",) if obj else ()

    def delete_model(self, request: HttpRequest, obj: CategoryPin) -> None:
        category_pin(category=obj.category, agent_name=None, user=request.user)
