"""Every change to eval sets and runs, one function each."""

from __future__ import annotations

from evals.services.execution import evalrun_execute, evalrun_questions
from evals.services.experiments import (
    ArmReport,
    ExperimentPlan,
    ExperimentReport,
    experiment_absent,
    experiment_assign,
    experiment_create,
    experiment_end,
    experiment_report,
    experiment_start,
)
from evals.services.gates import Gates, baseline_check, evalrun_gates, gates_check
from evals.services.ratings import interactions_judge, interactions_rate
from evals.services.reports import (
    evalrun_comparable,
    evalrun_csv,
    evalrun_items,
    evalrun_json,
    evalrun_regressions,
    evalrun_summary,
    evalrun_summary_now,
)
from evals.services.runs import (
    RunRequest,
    evalrun_cancel,
    evalrun_create,
    evalrun_get,
    evalrun_prepare,
    evalrun_priors,
    evalrun_resume,
    evalrun_start,
)
from evals.services.sets import (
    evalset_create,
    evalset_default,
    evalset_export,
    evalset_from_interactions,
    evalset_from_path,
    evalset_get,
    evalset_upload,
)

__all__ = [
    "ArmReport",
    "ExperimentPlan",
    "ExperimentReport",
    "Gates",
    "RunRequest",
    "baseline_check",
    "evalrun_cancel",
    "evalrun_comparable",
    "evalrun_create",
    "evalrun_csv",
    "evalrun_execute",
    "evalrun_gates",
    "evalrun_get",
    "evalrun_items",
    "evalrun_json",
    "evalrun_prepare",
    "evalrun_priors",
    "evalrun_questions",
    "evalrun_regressions",
    "evalrun_resume",
    "evalrun_start",
    "evalrun_summary",
    "evalrun_summary_now",
    "evalset_create",
    "evalset_default",
    "evalset_export",
    "evalset_from_interactions",
    "evalset_from_path",
    "evalset_get",
    "evalset_upload",
    "experiment_absent",
    "experiment_assign",
    "experiment_create",
    "experiment_end",
    "experiment_report",
    "experiment_start",
    "gates_check",
    "interactions_judge",
    "interactions_rate",
]
