"""Asking: one agent, one question, one saved result. Production traffic, arms and interactions stay untouched."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import cached_property
from typing import Any

from django.db import IntegrityError

from adaptrag.common.errors import AdaptRAGError, Unavailable
from agents.llm.base import Usage
from agents.models import AgentVariant, Document
from agents.retrieval.embedding import embedder
from agents.services import agent_answer
from agents.strategies.base import AgentRequest
from evals.judging import JudgeModel, judge_model_of
from evals.models import EvalPair, EvalQuestion, EvalResult, EvalRun
from evals.scoring import Embed, answer_metrics

logger = logging.getLogger(__name__)


class Asker:
    """Asks and scores for one run; safe to share between threads."""

    def __init__(self, run: EvalRun) -> None:
        self.run = run
        self.judge: JudgeModel | None = judge_model_of(run)

    @cached_property
    def embed(self) -> Embed | None:
        try:
            return embedder().embed
        except Unavailable as error:
            logger.warning("run %s has no embedding_support: %s", self.run.pk, error.message)
            return None

    def ask(self, question: EvalQuestion, variant: AgentVariant) -> None:
        """Answer, save, judge. What fails, agent or judge, is saved with its error and stays unscored.

        The answer is saved before it is judged: a run that is killed in between pays for the verdict alone when it goes on.
        """
        result = EvalResult.objects.filter(run=self.run, question=question, variant=variant).first()
        if result is None:
            try:
                result = self._answered(question, variant)
            except IntegrityError:
                logger.warning("another process answered question %s of run %s; its answer stays", question.key, self.run.pk)
                return
        if not result.complete:
            self._judge(result, question)

    def _answered(self, question: EvalQuestion, variant: AgentVariant) -> EvalResult:
        request = AgentRequest(question=question.question, collection=self.run.collection, top_k=self.run.top_k)
        values: dict[str, Any] = {"run": self.run, "question": question, "variant": variant}
        try:
            answer = agent_answer(variant, request)
        except Exception as error:
            if not isinstance(error, AdaptRAGError):
                logger.exception("%s failed on question %s of run %s", variant, question.key, self.run.pk)
            spent = getattr(error, "usage", Usage())
            return EvalResult.objects.create(
                **values, failed=True, error=_told(error), trace=list(getattr(error, "trace", ())), **asdict(spent)
            )
        ids = {passage.document_id for passage in answer.passages}
        sources = dict(Document.objects.filter(pk__in=ids).values_list("pk", "source"))
        metrics = answer_metrics(
            answer,
            answers=question.answers,
            gold=question.gold,
            unanswerable=question.unanswerable,
            sources=sources,
            top_k=self.run.top_k,
            embed=self.embed,
        )
        return EvalResult.objects.create(
            **values,
            answer=answer.text,
            sources=answer.sources,
            trace=list(answer.trace),
            score=metrics.get("token_f1") if self.run.judge == EvalRun.Judge.REFERENCE else None,
            complete=self.judge is None,
            metrics=metrics,
            model=answer.model,
            fallback=answer.fallback,
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            cost_usd=answer.usage.cost_usd,
            latency_ms=answer.latency_ms,
        )

    def _judge(self, result: EvalResult, question: EvalQuestion) -> None:
        """A failed judge leaves the item unscored, never zero."""
        references = self._references(question)
        try:
            verdict = self.judge.pointwise(
                question=question.question, answer=result.answer, passages=_shown(result), references=references
            )
        except AdaptRAGError as error:
            result.error, spent = _told(error), _spent(error)
        else:
            result.score, spent = verdict.score, verdict.usage
            result.judgement = {
                "score": verdict.score,
                "explanation": verdict.explanation,
                "model": verdict.model,
                "revision": verdict.revision,
                "references": bool(references),
            }
        _pay(result, spent)
        result.complete = True
        result.save(update_fields=["score", "judgement", "error", "complete", "judge_tokens", "judge_cost_usd"])

    def _references(self, question: EvalQuestion) -> list[str]:
        return [] if self.run.judge_blind else question.answers

    def compare(self, question: EvalQuestion, variant: AgentVariant, own: EvalResult, baseline: EvalResult) -> None:
        """Save the judge's preference between two saved answers; each answer stands with the other's passages."""
        references = self._references(question)
        pair = EvalPair(run=self.run, question=question, variant=variant, references=bool(references))
        passages = list(dict.fromkeys([*_shown(own), *_shown(baseline)]))
        try:
            verdict = self.judge.pairwise(
                question=question.question,
                first=own.answer,
                second=baseline.answer,
                passages=passages,
                references=references,
            )
        except AdaptRAGError as error:
            pair.error, spent = _told(error), _spent(error)
        else:
            pair.outcome = {"first": EvalPair.Outcome.WIN, "second": EvalPair.Outcome.LOSS}.get(
                verdict.winner, EvalPair.Outcome.TIE
            )
            pair.consistent, pair.explanations, spent = verdict.consistent, list(verdict.explanations), verdict.usage
            pair.model, pair.revision = verdict.model, verdict.revision
        _pay(pair, spent)
        pair.save()


def _shown(result: EvalResult) -> list[str]:
    """The passages that stood in the prompt of the answer."""
    return [source["text"] for source in result.sources if source["used"]]


def _pay(row: EvalResult | EvalPair, usage: Usage) -> None:
    """What the judge cost stands apart from what the agent cost."""
    row.judge_tokens += usage.prompt_tokens + usage.completion_tokens
    row.judge_cost_usd += usage.cost_usd


def _spent(error: AdaptRAGError) -> Usage:
    return Usage(**error.details.get("usage", {}))


def _told(error: Exception) -> dict[str, str]:
    if isinstance(error, AdaptRAGError):
        return {"code": error.code, "message": error.message[:2000]}
    return {"code": "agent_failed", "message": repr(error)[:2000]}
