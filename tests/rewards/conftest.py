"""For tests of routing and feedback."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rewards.services import linear


@pytest.fixture
def embedded_by_hash(monkeypatch):
    """Questions get unit vectors of their own, without the model; the list says which were embedded."""
    asked = []

    def vector(question):
        asked.append(question)
        seed = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big")
        values = np.random.default_rng(seed).standard_normal(384)
        return (values / np.linalg.norm(values)).astype("<f4")

    monkeypatch.setattr(linear, "question_vector", vector)
    return asked
