"""The converted encoder against torch, and how it is made."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from django.conf import settings

from adaptrag.common.errors import Unavailable
from agents.retrieval import embedding
from agents.retrieval.encoders import OnnxEmbedder, TorchEmbedder, batches, embed_batches

TEXTS = [
    "How many people live in Hoosick?",
    "Hoosick is a town in Rensselaer County, New York, United States. The population was 6,924 at the 2010 census.",
    "x",
    "Mother-to-child transmission is the main cause of HIV-1 infection in children worldwide. " * 20,
]


@pytest.fixture(scope="module")
def model():
    return embedding.embedder()


def test_vectors_are_of_length_one_and_near_texts_are_near(model):
    vectors = model.embed(TEXTS)
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[3]


def test_a_text_has_nearly_the_same_vector_alone_and_in_a_batch(model):
    together = model.embed(TEXTS)
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert ((together * alone).sum(axis=1) > 0.97).all()


def test_any_number_of_texts(model):
    assert model.embed([]).shape == (0, 384)
    assert model.embed(["", "x" * 100_000]).shape == (2, 384)


def test_batches_hold_each_text_once_and_like_lengths_together(model):
    texts = ["word " * (number % 40 + 1) for number in range(50)]
    found = list(batches(texts))
    assert sorted(row for rows in found for row in rows) == list(range(50))
    longest = [max(len(texts[row]) for row in rows) for rows in found]
    assert longest == sorted(longest)
    vectors = np.zeros((50, 384))
    for rows, part in embed_batches(model, texts, threads=2):
        vectors[rows] = part
    assert (np.linalg.norm(vectors, axis=1) > 0.99).all()


def test_a_question_is_embedded_once(model, monkeypatch):
    first = embedding.embed_query("what is remembered?")
    monkeypatch.setattr(model, "embed", lambda texts: pytest.fail("embedded again"))
    assert embedding.embed_query("what is remembered?") is first


def test_a_missing_model_names_the_remedy(settings, tmp_path):
    settings.ADAPTRAG_EMBEDDING_MODEL = str(tmp_path)
    with pytest.raises(Unavailable, match="ADAPTRAG_EMBEDDING_MODEL"):
        embedding.embedder()


@pytest.mark.slow
def test_converted_vectors_are_those_of_torch(settings):
    source = embedding.source_folder()
    expected = TorchEmbedder(source).embed(TEXTS)
    folder = embedding.converted(source, embedding.SHIPPED_NAME)
    cosine = (OnnxEmbedder(source, folder / "model.onnx").embed(TEXTS) * expected).sum(axis=1)
    assert cosine.min() > 0.97
    name = embedding.embedder().name
    settings.ADAPTRAG_EMBEDDING_BACKEND = "torch"
    assert embedding.embedder().name == name  # an index made with one can be searched with the other
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["cosine"]["float32"] > 0.9999
    assert manifest["weights_sha256"].startswith("53aa5117")


@pytest.mark.slow
def test_two_processes_convert_once(tmp_path):
    script = (
        "import django; django.setup()\n"
        "from agents.retrieval import embedding\n"
        "calls = []\n"
        "run = embedding.subprocess.run\n"
        "embedding.subprocess.run = lambda *a, **k: calls.append(1) or run(*a, **k)\n"
        "assert embedding.embedder().embed(['x']).shape == (1, 384)\n"
        "print(len(calls))\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin", "DJANGO_SETTINGS_MODULE": "adaptrag.settings",
        "ADAPTRAG_DATA_DIR": str(tmp_path / "var"), "ADAPTRAG_MODELS_DIR": str(tmp_path / "models"),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=settings.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=300)[0].strip() for process in processes) == ["0", "1"]
    assert sorted(path.suffix for path in (tmp_path / "models").iterdir()) == ["", ".lock"]


def test_documents_and_search_are_imported_without_any_model_library():
    script = (
        "import sys, django; django.setup()\n"
        "import agents.retrieval.search, agents.services, agents.tasks\n"
        "heavy = ('torch', 'transformers', 'faiss', 'onnxruntime', 'bm25s', 'tokenizers')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=settings.BASE_DIR, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
