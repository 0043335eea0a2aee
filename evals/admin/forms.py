"""What operators fill in: a run, an eval set, a name for a set of logged questions."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import QuerySet
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from agents.models import AgentVariant, Collection, slug_validator
from evals.models import EvalRun, EvalSet
from evals.services import RunRequest


def askable() -> QuerySet[AgentVariant]:
    """Every variant that may be asked: also candidates that take no traffic yet, and revisions that took it before."""
    return AgentVariant.objects.order_by("name", "-revision")


class RunForm(forms.Form):
    eval_set = forms.ModelChoiceField(
        label="Eval set", queryset=EvalSet.objects.order_by("name", "-version"), widget=UnfoldAdminSelectWidget
    )
    agents = forms.ModelMultipleChoiceField(
        queryset=AgentVariant.objects.none(),
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="At least one. The same agent in two revisions shows what the change did.",
    )
    baseline = forms.ModelChoiceField(
        queryset=AgentVariant.objects.none(),
        required=False,
        empty_label="the first one chosen",
        widget=UnfoldAdminSelectWidget,
        help_text="The others are compared with it.",
    )
    judge = forms.ChoiceField(
        choices=EvalRun.Judge.choices, initial="reference", widget=UnfoldAdminSelectWidget(choices=EvalRun.Judge.choices)
    )
    judge_model = forms.CharField(
        label="Judge's model",
        required=False,
        max_length=330,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "openai_compatible:gpt-4o-mini"}),
        help_text="backend:model; empty takes ADAPTRAG_JUDGE_BACKEND and ADAPTRAG_JUDGE_MODEL.",
    )
    judge_options = forms.JSONField(
        label="Judge's options",
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": '{"price_prompt_per_million": 0.15}'}),
        help_text="base_url, timeout, prices; empty takes ADAPTRAG_JUDGE_OPTIONS where the model is the settings'.",
    )
    judge_blind = forms.BooleanField(
        label="Judge blind",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="The chat model is not shown the gold answers. That calibrates it for questions that have none.",
    )
    pairwise = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="The chat model also compares each answer with the baseline's, in both orders.",
    )
    collection = forms.ModelChoiceField(
        queryset=Collection.objects.order_by("name"),
        required=False,
        empty_label="the set's own, else the default",
        widget=UnfoldAdminSelectWidget,
    )
    max_questions = forms.IntegerField(
        label="Questions at most", required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget
    )
    top_k = forms.IntegerField(label="Top k", initial=5, min_value=1, max_value=50, widget=UnfoldAdminIntegerFieldWidget)
    concurrency = forms.IntegerField(
        initial=4, min_value=1, max_value=64, widget=UnfoldAdminIntegerFieldWidget, help_text="Questions asked at once."
    )
    budget_tokens = forms.IntegerField(
        label="Budget in tokens", required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget
    )
    budget_usd = forms.FloatField(
        label="Budget in US dollars", required=False, min_value=0, widget=UnfoldAdminDecimalFieldWidget
    )
    name = forms.CharField(required=False, max_length=200, widget=UnfoldAdminTextInputWidget)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("agents", "baseline"):
            self.fields[name].queryset = askable()

    def request(self, user: Any) -> RunRequest:
        values = self.cleaned_data
        backend, _, model = values["judge_model"].partition(":")
        baseline = values["baseline"]
        agents = sorted(values["agents"], key=lambda variant: variant != baseline)
        return RunRequest(
            eval_set=values["eval_set"],
            agents=tuple(agents),
            collection=values["collection"].name if values["collection"] else None,
            baseline="",  # the first, which is the one chosen
            top_k=values["top_k"],
            judge=values["judge"],
            judge_backend=backend.strip(),
            judge_model=model.strip(),
            judge_options=values["judge_options"] or {},
            judge_blind=values["judge_blind"],
            pairwise=values["pairwise"],
            max_questions=values["max_questions"],
            concurrency=values["concurrency"],
            budget_tokens=values["budget_tokens"],
            budget_usd=values["budget_usd"],
            name=values["name"],
            user=user,
        )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        baseline = cleaned.get("baseline")
        if baseline and baseline not in cleaned.get("agents", ()):
            self.add_error("baseline", f"{baseline} is not among the agents chosen above.")
        return cleaned


class ResumeForm(forms.Form):
    budget_tokens = forms.IntegerField(
        label="Budget in tokens", required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget
    )
    budget_usd = forms.FloatField(
        label="Budget in US dollars", required=False, min_value=0, widget=UnfoldAdminDecimalFieldWidget
    )


class SetForm(forms.Form):
    file = forms.FileField(
        required=False,
        widget=forms.ClearableFileInput(attrs={"class": "ar-files", "accept": ".jsonl,.json,.gz"}),
        help_text='JSON lines: {"id", "question", "answers": [...], "gold": {source: gain}, "category"}; also .gz. '
        "None chosen: the built-in questions over the handbook.",
    )
    name = forms.CharField(
        required=False,
        max_length=64,
        validators=[slug_validator],
        widget=UnfoldAdminTextInputWidget(attrs={"list": "names", "autocomplete": "off"}),
        help_text="The file's name if empty. A known name gets its next version.",
    )


class AddToSetForm(forms.Form):
    name = forms.CharField(
        label="Eval set",
        max_length=64,
        validators=[slug_validator],
        widget=UnfoldAdminTextInputWidget(attrs={"list": "names", "autocomplete": "off"}),
        help_text="One that is there, which gets its next version, or the name of a new one.",
    )


class PriorsForm(forms.Form):
    pulls = forms.FloatField(
        initial=10,
        min_value=0.1,
        max_value=10_000,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="How many rated answers the scores shall be worth. Real ratings outweigh them as they come in.",
    )
