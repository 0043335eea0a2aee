"""The judge of a run: its chat model, and verdicts kept by content so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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


def judge_named(backend: str = "", model: str = "", options: dict[str, Any] | None = None) -> tuple[JudgeModel, str, str]:
    """(judge, backend, model), from the settings where none is named. Raises InvalidInput where they name none either."""
    backend, model = backend or settings.ADAPTRAG_JUDGE_BACKEND, model or settings.ADAPTRAG_JUDGE_MODEL
    if not backend or (not model and backend != "local"):
        raise InvalidInput(
            "No judge model: set ADAPTRAG_JUDGE_BACKEND and ADAPTRAG_JUDGE_MODEL (and OPENAI_API_KEY), name one for the run, "
            "or judge by reference.",
            field="judge",
        )
    options = options or {}
    validate_options(backend, options)
    where = {name: options[name] for name in ("base_url", "answer", "script") if name in options}
    return JudgeModel(chat_model(backend, model, options), json.dumps([backend, model, where], sort_keys=True)), backend, model


def judge_model_of(run: EvalRun) -> JudgeModel | None:
    """The chat model that judges a run, or None; its backend and name are set on the run. Raises InvalidInput."""
    if run.judge != EvalRun.Judge.LLM:
        return None
    judge, run.judge_backend, run.judge_model = judge_named(run.judge_backend, run.judge_model, run.judge_options)
    run.judge_revision = PointwiseJudge.revision
    return judge
