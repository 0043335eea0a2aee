"""For tests of routing and feedback."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from django.contrib.auth import get_user_model

from rewards.services import linear
from tests.rewards.rows import variant


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


@pytest.fixture
def alpha():
    return variant("alpha")


@pytest.fixture
def tuned(alpha):
    return variant("tuned", state="candidate", predecessor=alpha)


@pytest.fixture
def olga():
    return get_user_model().objects.create_user("olga")
