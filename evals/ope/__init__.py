"""Off-policy evaluation: the value of another policy, estimated from what one policy logged. No ORM, no Django."""

from evals.ope.base import Estimate, Estimator, effective_sample_size, importance_weights
from evals.ope.dm import DM
from evals.ope.dr import DR
from evals.ope.ips import IPS
from evals.ope.overlap import Overlap, overlap
from evals.ope.reward_model import cross_fitted
from evals.ope.snips import SNIPS

ESTIMATORS: dict[str, type[Estimator]] = {estimator.name: estimator for estimator in (IPS, SNIPS, DM, DR)}

__all__ = [
    "DM", "DR", "ESTIMATORS", "IPS", "SNIPS", "Estimate", "Estimator", "Overlap", "cross_fitted", "effective_sample_size",
    "importance_weights", "overlap",
]  # fmt: skip
