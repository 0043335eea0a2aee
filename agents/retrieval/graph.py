"""The graph of a collection: entities that passages name, and the relations that they state. JSON on disk, networkx in memory.

A search takes the passages that a hybrid search finds and follows what they name: to the documents that are about it, to other
passages that name the same rare thing, and along the shortest path between things that the question names.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from agents.models import Chunk, Collection
from agents.retrieval.around import derived_path
from agents.retrieval.base import Passage
from agents.retrieval.entities import Extraction, named
from agents.retrieval.search import POOL, retrieve

if TYPE_CHECKING:
    import networkx

FORM, FILE = 1, "graph.json"
SEEDS = 3  # passages whose names are followed, the n-th with 1/n of the weight
# What a link adds to a passage's hybrid score, which is a sum of two z-scores; docs/decisions/0008-agent-families.md.
ABOUT, SHARED, ON_PATH = 3.0, 1.0, 1.0
RARE = 5  # a name in more passages than this links nothing by being shared
HUB = 50  # nor does a path lead through it
TITLED = 5  # documents of one title that are followed
LONGEST_PATH = 3  # relations between two things that the question names
OPEN_GRAPHS = 4


@dataclass(frozen=True, kw_only=True)
class Link:
    """Why a passage is worth reading: the weight, and the relations in words."""

    weight: float
    via: str


def write_graph(folder: Path, passages: Mapping[int, Extraction]) -> int:
    """Write what each chunk says; returns the number of entities."""
    rows = {str(chunk): {"title": one.title, "names": one.names, "relations": one.relations} for chunk, one in passages.items()}
    (folder / FILE).write_text(json.dumps({"form": FORM, "passages": rows}, ensure_ascii=False, separators=(",", ":")))
    return len({key for one in passages.values() for key in one.names})


def read_extractions(folder: Path) -> dict[int, Extraction]:
    """What the graph in this folder was made from, by chunk: a chunk's text never changes. Empty for another form."""
    data = json.loads((folder / FILE).read_text())
    if data["form"] != FORM:
        return {}
    return {
        int(chunk): Extraction(
            title=tuple(row["title"]), names=row["names"], relations=tuple(tuple(relation) for relation in row["relations"])
        )
        for chunk, row in data["passages"].items()
    }


class OpenGraph:
    """Nodes are entities by key: `name`, `chunks` that name it, `titles`, the chunks of documents about it. Edges hold `facts`,
    each (subject, words, object, chunk)."""

    def __init__(self, passages: Mapping[int, Extraction]) -> None:
        import networkx

        self.passages = passages
        self.graph: networkx.Graph = networkx.Graph()
        for chunk, one in passages.items():
            for key, name in one.names.items():
                self._node(key, name)["chunks"].append(chunk)
            for key in one.title:
                self._node(key, one.names.get(key, key))["titles"].append(chunk)
            for subject, words, thing in one.relations:
                if not self.graph.has_edge(subject, thing):
                    self.graph.add_edge(subject, thing, facts=[])
                self.graph.edges[subject, thing]["facts"].append((subject, words, thing, chunk))

    def _node(self, key: str, name: str) -> dict[str, Any]:
        if key not in self.graph:
            self.graph.add_node(key, name=name, chunks=[], titles=[])
        return self.graph.nodes[key]

    def name(self, key: str) -> str:
        return self.graph.nodes[key]["name"]

    def links(self, question: str, seeds: Iterable[Passage]) -> dict[int, Link]:
        """Chunks that the seeds, best first, and the question's own names lead to."""
        found: dict[int, Link] = {}

        def add(chunk: int, weight: float, via: str) -> None:
            if chunk not in found or found[chunk].weight < weight:
                found[chunk] = Link(weight=weight, via=via)

        for position, seed in enumerate(seeds, start=1):
            one = self.passages.get(seed.chunk_id)
            for key in one.names if one else ():
                node = self.graph.nodes[key]
                via = self._stated(seed, key)
                if key not in one.title:
                    for chunk in node["titles"][:TITLED]:
                        add(chunk, ABOUT / position, via)
                for chunk in node["chunks"] if len(node["chunks"]) <= RARE else ():
                    if self.passages[chunk].title != one.title:
                        add(chunk, SHARED / position, via)
        for facts in self._paths(named(question, self.graph)):
            via = "; ".join(self._sentence(fact) for fact in facts)
            for *_, chunk in facts:
                add(chunk, ON_PATH, via)
        return found

    def _stated(self, seed: Passage, key: str) -> str:
        """The relation in which the seed names an entity."""
        for subject, words, thing in self.passages[seed.chunk_id].relations:
            if thing == key:
                return self._sentence((subject, words, thing, seed.chunk_id))
        return f"{seed.document} — names → {self.name(key)}"

    def _sentence(self, fact: tuple[str, str, str, int]) -> str:
        subject, words, thing, _ = fact
        return f"{self.name(subject)} — {words} → {self.name(thing)}"

    def _paths(self, keys: list[str]) -> list[list[tuple[str, str, str, int]]]:
        """One fact for each step of the shortest path between any two of these entities."""
        import networkx

        ends = set(keys)
        quiet = networkx.subgraph_view(
            self.graph, filter_node=lambda key: key in ends or len(self.graph.nodes[key]["chunks"]) <= HUB
        )
        paths = []
        for start, end in combinations(keys[:4], 2):
            try:
                path = networkx.bidirectional_shortest_path(quiet, start, end)
            except networkx.NetworkXNoPath:
                continue
            if len(path) - 1 <= LONGEST_PATH:
                paths.append([self.graph.edges[step]["facts"][0] for step in pairwise(path)])
        return paths


def retrieve_graph(collection: Collection, query: str, k: int) -> list[Passage]:
    """The k best passages by hybrid score and links; `via` of a linked one says along which relations. Raises IndexNotReady."""
    graph = _opened(derived_path(collection, "graph"))
    found = retrieve(collection, query, max(POOL, k), "hybrid")
    links = graph.links(query, found[:SEEDS])
    lowest = min((passage.score for passage in found), default=0.0)
    missing = set(links) - {passage.chunk_id for passage in found}
    # Rows, not files: what was deleted since the graph was made is not there.
    found += [_passage(chunk, lowest) for chunk in Chunk.objects.filter(pk__in=missing).select_related("document")]
    scored = [_linked(passage, links.get(passage.chunk_id)) for passage in found]
    ranked = sorted(scored, key=lambda passage: -passage.score)[:k]
    return [dataclasses.replace(passage, rank=rank) for rank, passage in enumerate(ranked, start=1)]


def _linked(passage: Passage, link: Link | None) -> Passage:
    score = passage.score + (link.weight if link else 0.0)
    scores = {**passage.scores, "links": link.weight if link else 0.0, "graph": score}
    return dataclasses.replace(passage, score=score, scores=scores, retriever="graph", via=link.via if link else "")


def _passage(chunk: Chunk, score: float) -> Passage:
    document = chunk.document
    return Passage(
        chunk_id=chunk.pk,
        document_id=document.pk,
        document=document.title or document.source,
        text=chunk.text,
        heading=chunk.heading,
        page=chunk.page,
        start=chunk.start,
        end=chunk.end,
        kind=chunk.kind,
        place=chunk.place,
        image_id=chunk.image_id,
        score=score,
        rank=0,
        retriever="graph",
    )


_lock = threading.Lock()
_open: OrderedDict[str, OpenGraph] = OrderedDict()


def _opened(path: str) -> OpenGraph:
    """The graph in the folder `path` under the data folder, read once a process. Raises FileNotFoundError."""
    with _lock:
        if path in _open:
            _open.move_to_end(path)
            return _open[path]
    graph = OpenGraph(read_extractions(Path(settings.DATA_DIR) / path))
    with _lock:
        _open[path] = graph
        while len(_open) > OPEN_GRAPHS:
            _open.popitem(last=False)
    return graph
