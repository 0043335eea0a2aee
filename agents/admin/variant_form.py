"""The form of an agent: one field a parameter of the chosen strategy, checked by the strategy and the chat model."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db import transaction
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from adaptrag.common.errors import AdaptRAGError
from adaptrag.common.parameter_forms import ParameterFields
from agents.models import AgentVariant
from agents.services import agent_register, agent_validate
from agents.strategies import STRATEGIES

PARAMETERS = ParameterFields({name: strategy.Parameters for name, strategy in STRATEGIES.items()}, selector="strategy")
_STRATEGY_CHOICES = [(name, f"{strategy.title}: {strategy.summary}") for name, strategy in STRATEGIES.items()]
REGISTERED = (
    *("name", "strategy", "chat_backend", "chat_model", "chat_options", "artifact", "parameters"),
    *("inherit", "note", "state", "enabled"),
)


class BaseVariantForm(forms.ModelForm):
    strategy = forms.ChoiceField(
        choices=_STRATEGY_CHOICES,
        widget=UnfoldAdminSelectWidget(choices=_STRATEGY_CHOICES),
        help_text="How it searches and answers. Its parameters follow below.",
    )

    class Meta:
        model = AgentVariant
        fields = tuple(name for name in REGISTERED if name != "parameters")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "note" in self.fields:
            self.fields["note"].widget.attrs["rows"] = 2
        if "chat_options" in self.fields:
            self.fields["chat_options"].widget = UnfoldAdminTextareaWidget(attrs={"rows": 6, "spellcheck": "false"})
        if "artifact" in self.fields:
            self.fields["artifact"].help_text = (
                "Adapter that the chat model answers with, or quantized build that answers in its place. Trainings and "
                "quantizations make them."
            )
            self.fields["artifact"].empty_label = "none"
        if self.instance.pk:
            self.initial.update(PARAMETERS.initial(self.instance.strategy, self.instance.parameters))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        name, strategy = cleaned.get("name"), cleaned.get("strategy", "")
        if not self.instance.pk and name and AgentVariant.objects.filter(name=name).exists():
            self.add_error(
                "name", f"There is an agent {name!r} already. Change that one (it gets a new revision) or choose another name."
            )
        cleaned["parameters"] = PARAMETERS.collect(strategy, cleaned)
        if strategy and "chat_options" in cleaned:
            cleaned["chat_options"] = cleaned["chat_options"] or {}
            self._validate(strategy, cleaned)
        if not self.instance.pk and not self.errors:
            self._try_registering(cleaned)
        return cleaned

    def _try_registering(self, cleaned: dict[str, Any]) -> None:
        """What the service refuses is said beside the form; the admin registers after the inlines are checked too."""
        try:
            with transaction.atomic():
                agent_register(**{name: cleaned[name] for name in REGISTERED})
                transaction.set_rollback(True)
        except AdaptRAGError as error:
            field = error.details.get("field")
            self.add_error(field if field in self.fields else None, error.message)

    def _validate(self, strategy: str, cleaned: dict[str, Any]) -> None:
        try:
            agent_validate(
                strategy=strategy,
                chat_backend=cleaned.get("chat_backend", ""),
                chat_options=cleaned["chat_options"],
                parameters=cleaned["parameters"],
            )
        except AdaptRAGError as error:
            parameter = error.details.get("parameter")
            field = PARAMETERS.key_of(strategy, parameter) if parameter else error.details.get("field", "chat_options")
            self.add_error(field if field in self.fields else None, error.message)


VariantForm = type("VariantForm", (BaseVariantForm,), PARAMETERS.form_fields())
