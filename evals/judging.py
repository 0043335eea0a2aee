"""The judge of a run: its chat model, and verdicts kept by content so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from adaptrag.common.errors import InvalidInput
from agents.llm.base import ChatModel, Usage
from agents.llm.factory import chat_model, validate_options
from evals.judges import PairVerdict, PairwiseJudge, PointwiseJudge, Verdict
from evals.models import EvalRun, JudgeCall


class JudgeModel:
    """A chat model as a judge. It is asked only about what it has not judged before; what is known costs nothing.

    `identity` says which model on which server: verdicts of another one are not taken for its own.
    """

    def __init__(self, chat: ChatModel, identity: str) -> None:
        self._identity = identity
        self._pointwise, self._pairwise = PointwiseJudge(chat), PairwiseJudge(chat)

    def pointwise(self, *, question: str, answer: str, passages: Sequence[str], references: Sequence[str]) -> Verdict:
        """Raises JudgeFailed, ChatModelUnavailable."""
        content = {"question": question, "answer": answer, "passages": list(passages), "references": list(references)}
        digest = self._digest(self._pointwise, content)
        if known := JudgeCall.objects.filter(digest=digest).first():
            return Verdict(**known.verdict, model=known.model, revision=known.revision, usage=Usage())
        verdict = self._pointwise.judge(**content)
        self._keep(digest, self._pointwise, verdict, {"score": verdict.score, "explanation": verdict.explanation})
        return verdict

    def pairwise(
        self, *, question: str, first: str, second: str, passages: Sequence[str], references: Sequence[str]
    ) -> PairVerdict:
        """Raises JudgeFailed, ChatModelUnavailable."""
        content = {
            "question": question, "first": first, "second": second, "passages": list(passages), "references": list(references)
        }  # fmt: skip
        digest = self._digest(self._pairwise, content)
        if known := JudgeCall.objects.filter(digest=digest).first():
            kept = known.verdict | {"explanations": tuple(known.verdict["explanations"])}
            return PairVerdict(**kept, model=known.model, revision=known.revision, usage=Usage())
        verdict = self._pairwise.judge(**content)
        kept = {"winner": verdict.winner, "consistent": verdict.consistent, "explanations": list(verdict.explanations)}
        self._keep(digest, self._pairwise, verdict, kept)
        return verdict

    def _digest(self, judge: PointwiseJudge | PairwiseJudge, content: dict[str, Any]) -> str:
        known_by = [self._identity, judge.kind, judge.revision, content]
        return hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()

    def _keep(self, digest: str, judge: PointwiseJudge | PairwiseJudge, verdict: Any, kept: dict[str, Any]) -> None:
        JudgeCall.objects.get_or_create(
            digest=digest,
            defaults={
                "kind": judge.kind,
                "model": verdict.model,
                "revision": verdict.revision,
                "verdict": kept,
                "prompt_tokens": verdict.usage.prompt_tokens,
                "completion_tokens": verdict.usage.completion_tokens,
                "cost_usd": verdict.usage.cost_usd,
            },
        )


@dataclass(frozen=True, kw_only=True)
class NamedJudge:
    """A judge with what it was made of."""

    judge: JudgeModel
    backend: str
    model: str
    options: dict[str, Any]


def judge_named(backend: str = "", model: str = "", options: dict[str, Any] | None = None) -> NamedJudge:
    """The judge named, else the settings'. Raises InvalidInput where they name none either, or an option is wrong.

    ADAPTRAG_JUDGE_OPTIONS belong to the settings' model: another one has other prices and stands elsewhere. `options` go first.
    """
    backend, model = backend or settings.ADAPTRAG_JUDGE_BACKEND, model or settings.ADAPTRAG_JUDGE_MODEL
    if not backend or (not model and backend != "local"):
        raise InvalidInput(
            "No judge model: set ADAPTRAG_JUDGE_BACKEND and ADAPTRAG_JUDGE_MODEL (and OPENAI_API_KEY), name one for the run, "
            "or judge by reference.",
            field="judge",
        )
    own = (backend, model) == (settings.ADAPTRAG_JUDGE_BACKEND, settings.ADAPTRAG_JUDGE_MODEL)
    if own and isinstance(options, dict | None):
        options = {**settings.ADAPTRAG_JUDGE_OPTIONS, **(options or {})}
    options = {} if options is None else options
    return _judge(backend, model, options)


def _judge(backend: str, model: str, options: dict[str, Any]) -> NamedJudge:
    try:
        validate_options(backend, options)
    except InvalidInput as error:
        raise InvalidInput(f"The judge: {error.message}", field="judge_options") from None
    where = {name: options[name] for name in ("base_url", "answer", "script") if name in options}
    judge = JudgeModel(chat_model(backend, model, options), json.dumps([backend, model, where], sort_keys=True))
    return NamedJudge(judge=judge, backend=backend, model=model, options=options)


def judge_model_of(run: EvalRun) -> JudgeModel | None:
    """The chat model that judges a run, or None. Before the run is saved, its name and options are set on it: settings that
    change later don't change the run. Raises InvalidInput."""
    if run.judge != EvalRun.Judge.LLM:
        return None
    if run.pk:
        return _judge(run.judge_backend, run.judge_model, run.judge_options).judge
    named = judge_named(run.judge_backend, run.judge_model, run.judge_options)
    run.judge_backend, run.judge_model, run.judge_options = named.backend, named.model, named.options
    run.judge_revision = PointwiseJudge.revision
    return named.judge
