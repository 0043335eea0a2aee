"""Addresses under /api/."""

from __future__ import annotations

from django.urls import path, re_path

from adaptrag.api.docs import DocsView, SchemaView
from adaptrag.api.documents import DocumentsView, DocumentView, ImageView
from adaptrag.api.errors import page_not_found
from adaptrag.api.evals import CancelView, EvalSetExportView, EvalSetsView, ResultsView, ResumeView, RunsView, RunView
from adaptrag.api.feedback import FeedbackView
from adaptrag.api.health import HealthView
from adaptrag.api.improve import ImprovementCancelView, ImprovementResumeView, ImprovementsView, ImprovementView
from adaptrag.api.inventory import AgentsView, CollectionsView
from adaptrag.api.promotions import AgentView, PromoteView, RollbackView
from adaptrag.api.queries import CompareView, InteractionView, QueryAgentView, QueryView
from adaptrag.api.rl import LeaderboardView, OptimizeView, ResetView, StatsView
from adaptrag.api.training import (
    DatasetsView,
    DistillationCancelView,
    DistillationResumeView,
    DistillationsView,
    DistillationView,
    QuantizationCancelView,
    QuantizationQualityView,
    QuantizationResumeView,
    QuantizationsView,
    QuantizationView,
    TrainingCancelView,
    TrainingResumeView,
    TrainingsView,
    TrainingView,
)

app_name = "api"

urlpatterns = [
    path("query", QueryView.as_view(), name="query"),
    path("query/<str:agent>", QueryAgentView.as_view(), name="query-agent"),
    path("compare", CompareView.as_view(), name="compare"),
    path("interactions/<str:interaction_id>", InteractionView.as_view(), name="interaction"),
    path("feedback", FeedbackView.as_view(), name="feedback"),
    path("rl/stats", StatsView.as_view(), name="rl-stats"),
    path("rl/leaderboard", LeaderboardView.as_view(), name="rl-leaderboard"),
    path("rl/optimize", OptimizeView.as_view(), name="rl-optimize"),
    path("rl/reset", ResetView.as_view(), name="rl-reset"),
    path("agents", AgentsView.as_view(), name="agents"),
    path("agents/<str:name>", AgentView.as_view(), name="agent"),
    path("agents/<str:name>/promote", PromoteView.as_view(), name="agent-promote"),
    path("agents/<str:name>/rollback", RollbackView.as_view(), name="agent-rollback"),
    path("collections", CollectionsView.as_view(), name="collections"),
    path("documents", DocumentsView.as_view(), name="documents"),
    path("documents/<int:document_id>", DocumentView.as_view(), name="document"),
    path("images/<int:image_id>", ImageView.as_view(), name="image"),
    path("evals/sets", EvalSetsView.as_view(), name="eval-sets"),
    path("evals/sets/<slug:name>/export", EvalSetExportView.as_view(), name="eval-set-export"),
    path("evals/runs", RunsView.as_view(), name="eval-runs"),
    path("evals/runs/<int:run>", RunView.as_view(), name="eval-run"),
    path("evals/runs/<int:run>/results", ResultsView.as_view(), name="eval-run-results"),
    path("evals/runs/<int:run>/cancel", CancelView.as_view(), name="eval-run-cancel"),
    path("evals/runs/<int:run>/resume", ResumeView.as_view(), name="eval-run-resume"),
    path("training/datasets", DatasetsView.as_view(), name="training-datasets"),
    path("training/runs", TrainingsView.as_view(), name="training-runs"),
    path("training/runs/<int:run>", TrainingView.as_view(), name="training-run"),
    path("training/runs/<int:run>/cancel", TrainingCancelView.as_view(), name="training-run-cancel"),
    path("training/runs/<int:run>/resume", TrainingResumeView.as_view(), name="training-run-resume"),
    path("training/quantizations", QuantizationsView.as_view(), name="training-quantizations"),
    path("training/quantizations/<int:run>", QuantizationView.as_view(), name="training-quantization"),
    path("training/quantizations/<int:run>/cancel", QuantizationCancelView.as_view(), name="training-quantization-cancel"),
    path("training/quantizations/<int:run>/resume", QuantizationResumeView.as_view(), name="training-quantization-resume"),
    path("training/quantizations/<int:run>/quality", QuantizationQualityView.as_view(), name="training-quantization-quality"),
    path("training/distillations", DistillationsView.as_view(), name="training-distillations"),
    path("training/distillations/<int:run>", DistillationView.as_view(), name="training-distillation"),
    path("training/distillations/<int:run>/cancel", DistillationCancelView.as_view(), name="training-distillation-cancel"),
    path("training/distillations/<int:run>/resume", DistillationResumeView.as_view(), name="training-distillation-resume"),
    path("improve", ImprovementsView.as_view(), name="improve"),
    path("improve/<int:run>", ImprovementView.as_view(), name="improve-run"),
    path("improve/<int:run>/cancel", ImprovementCancelView.as_view(), name="improve-cancel"),
    path("improve/<int:run>/resume", ImprovementResumeView.as_view(), name="improve-resume"),
    path("health", HealthView.as_view(), name="health"),
    path("schema", SchemaView.as_view(), name="schema"),
    path("docs", DocsView.as_view(), name="docs"),
    re_path(r"", page_not_found, {"exception": None}),
]
