"""`benchmark loop` on a small set and a chat model of a few kilobytes, in pieces."""

import json
import random
from xml.etree import ElementTree

import pytest

from benchmarks import loop
from benchmarks.loop import SMOOTHED, Unfinished, drawn, moving

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_shows_the_reward_and_the_share_of_the_tuned_agent():
    rounds = [{"agent": "old" if n < 300 or n % 2 else "tuned", "reward": 0.1 if n < 300 else 0.4} for n in range(600)]
    picture = drawn(rounds, "tuned", 300, "a <set>")
    assert picture.startswith("<svg") and picture.count("<polyline") == 1 and "share of the tuned agent" in picture
    assert moving([0.0] * 40 + [1.0] * 40)[59] == 0.5
    assert ElementTree.fromstring(picture).find(f"{SVG}title").text.endswith("a <set>")  # noqa: S314


@pytest.mark.parametrize("count", [1, 5, 600])
def test_the_curve_lies_within_the_picture(count):
    rounds = [{"agent": "tuned" if n > count / 2 else "old", "reward": n / count} for n in range(count)]
    picture = ElementTree.fromstring(drawn(rounds, "tuned", count // 2, "towns"))  # noqa: S314
    _, _, width, height = map(float, picture.get("viewBox").split())
    points = [tuple(map(float, point.split(","))) for point in picture.find(f"{SVG}polyline").get("points").split()]
    assert len(points) == count - min(count, SMOOTHED // 2) + 1
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.slow
def test_the_benchmark_goes_on_where_it_was_stopped_and_reports_every_phase(tmp_path, settings, student):
    dataset = tmp_path / "towns"
    (dataset / "qrels").mkdir(parents=True)
    rows = range(120)
    corpus = [{"_id": f"d{n}", "title": f"Town {n}", "text": f"The bridge of town{n} was built in {1700 + n}."} for n in rows]
    queries = [
        {"_id": f"q{n}", "text": f"When was the bridge of town{n} built?", "metadata": {"answers": [str(1700 + n)]}}
        for n in rows
    ]
    random.Random(0).shuffle(queries)
    (dataset / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in corpus))
    (dataset / "queries.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in queries))
    (dataset / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in rows))
    settings.DATA_DIR = tmp_path / "data"
    options = {
        "dataset": dataset, "rounds": 15, "broken_rounds": 8, "steps": 1, "questions": 4, "quantize": "none",
        "model": str(student), "parallel": 2, "minutes": 0.05, "fresh": False, "picture": None,
    }  # fmt: skip
    with pytest.raises(Unfinished, match="goes on where it was"):
        loop.run(options, lambda fraction, message: None)
    found = {row["phase"].split(":")[0].split(",")[0]: row for row in loop.run(options | {"minutes": 0}, lambda *_: None)}
    assert set(found) >= {"before", "improve", "after", "last against first", "broken adapter", "all"}
    site = settings.DATA_DIR / "benchmarks" / "loop-towns"
    assert (site / "learning-curve.svg").read_text().startswith("<svg")
    numbers = [json.loads(line)["number"] for line in (site / "asked.jsonl").read_text().splitlines()[1:]]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
