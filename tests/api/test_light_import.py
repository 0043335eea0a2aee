"""The web process stays light: weights and vector libraries belong to the processes that use them."""

import os
import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "faiss", "onnxruntime")
CODE = f"""
import sys
import adaptrag.asgi
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_the_web_process_imports_no_heavy_library(tmp_path):
    environment = {**os.environ, "ADAPTRAG_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "adaptrag.settings"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
