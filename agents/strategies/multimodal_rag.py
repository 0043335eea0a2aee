"""Images and text together: what images say and show has its place among the passages, and a model that sees looks itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from adaptrag.common.errors import NotFound
from agents.retrieval.base import Passage
from agents.strategies.base import AgentRequest, CommonParameters, Draft, Strategy, Tools, parameter
from agents.strategies.prompt import answer_messages, search_query

POOL = 30  # passages among which images are looked for


@dataclass(frozen=True, kw_only=True)
class MultimodalParameters(CommonParameters):
    images: int = parameter(1, "Passages of images that stand in the prompt wherever any were found.", low=0, high=10)
    near: float = parameter(
        0.5, "An image gets such a place if its score is at least this share of the best passage's.", low=0, high=1
    )
    look: bool = parameter(False, "Send these images to the chat model too, which must be one that sees.")


class MultimodalRAG(Strategy):
    name = "multimodal_rag"
    title = "Multimodal RAG"
    summary = "Answers from texts and images together; a chat model that sees can look at the images it found."
    Parameters = MultimodalParameters

    def answer(self, request: AgentRequest, tools: Tools) -> Draft:
        found = tools.retrieve(search_query(request), max(request.top_k, POOL), "hybrid")
        used = self._chosen(found)
        passages = list({passage.chunk_id: passage for passage in [*used, *found]}.values())
        passages = passages[: max(request.top_k, len(used))]
        messages = answer_messages(request, used, self.parameters)
        if self.parameters.look and (urls := self._seen(used, tools)):
            messages[-1] = dataclasses.replace(messages[-1], images=urls)
        completion = tools.chat(messages, max_tokens=self.parameters.max_tokens, stream=True)
        return Draft(text=completion.text, passages=passages, used=used)

    def _chosen(self, found: Sequence[Passage]) -> list[Passage]:
        """The passages of the prompt: the best, with room for the best image passages near enough, each image once."""
        room = self.parameters.prompt_passages
        least = self.parameters.near * found[0].score if found and found[0].score > 0 else float("-inf")
        images = list({one.image_id: one for one in reversed(found) if one.image_id and one.score >= least}.values())[::-1]
        images = sorted(images, key=lambda one: one.rank)[: min(self.parameters.images, room)]
        kept = {passage.chunk_id for passage in images}
        others = [passage for passage in found if passage.chunk_id not in kept][: room - len(images)]
        return sorted([*images, *others], key=lambda one: one.rank)

    def _seen(self, used: Sequence[Passage], tools: Tools) -> tuple[str, ...]:
        urls = []
        for passage in {one.image_id: one for one in used if one.image_id}.values():
            begun = time.perf_counter()
            try:
                urls.append(tools.image(passage))
            except NotFound as error:  # its document was replaced since the search; the text about it stands
                tools.note("image", begun, image=passage.image_id, error=error.message)
        return tuple(urls)
