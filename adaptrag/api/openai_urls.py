"""Addresses under /v1/."""

from __future__ import annotations

from django.urls import path, re_path

from adaptrag.api.completions import CompletionsView, ModelsView, ModelView
from adaptrag.api.errors import page_not_found

app_name = "openai"

urlpatterns = [
    path("chat/completions", CompletionsView.as_view(), name="chat-completions"),
    path("models", ModelsView.as_view(), name="models"),
    path("models/<str:model>", ModelView.as_view(), name="model"),
    re_path(r"", page_not_found, {"exception": None}),
]
