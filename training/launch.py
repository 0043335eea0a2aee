"""The same training over several processes, which meet over gloo or nccl. Knows no ORM.

torch's launcher starts those of one machine, `accelerate launch` those of several (docs/fine-tuning.md, "Training over several
machines"). Each runs `python -m training.launch SPEC`, and the first tells what happens, a JSON object a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.errors import NothingToLearn, TrainingFailed
from training.lora import train_lora
from training.recipe import OnPoint, Outcome, Point, Recipe

ROOT = Path(__file__).resolve().parent.parent
MARK = "@adaptrag "
SPEC = "spec.json"  # in the run's folder: what every process of the run reads


def launch(processes: int, options: Sequence[str] = ()) -> Callable[..., Outcome]:
    """A function with the arguments of train_lora that runs it over `processes`, or as `accelerate launch` is told to by
    options."""

    def run(
        model: Path,
        train: Sequence[Any],
        validation: Sequence[Any],
        out: Path,
        recipe: Recipe,
        *,
        on_point: OnPoint = lambda point: None,
        on_checkpoint: Callable[[int], None] = lambda step: None,
    ) -> Outcome:
        out.mkdir(parents=True, exist_ok=True)
        spec = out / SPEC
        values = {"model": str(model), "out": str(out), "recipe": asdict(recipe), "train": train, "validation": validation}
        spec.write_text(json.dumps(values))
        where = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
        if options:
            where = ("accelerate.commands.launch", *options)
        command = [sys.executable, "-m", *where, "-m", "training.launch", str(spec)]
        # accelerate shares out the cores by itself.
        threads = {} if options else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
        environment = {**threads, **os.environ, "PYTHONPATH": str(ROOT)}
        tail: deque[str] = deque(maxlen=30)
        outcome: Outcome | None = None
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                for line in process.stdout:
                    if not line.startswith(MARK):
                        tail.append(line)
                        continue
                    kind, value = json.loads(line.removeprefix(MARK))
                    if kind == "point":
                        on_point(Point(**value))
                    elif kind == "checkpoint":
                        on_checkpoint(value)
                    elif kind == "failed":
                        raise (NothingToLearn if value[0] == NothingToLearn.code else TrainingFailed)(value[1])
                    else:
                        points = [Point(**point) for point in value.pop("points")]
                        outcome = Outcome(**value | {"path": Path(value["path"]), "points": points})
            finally:
                if outcome is None:
                    process.terminate()  # the launcher ends its processes
        if outcome is None:
            raise TrainingFailed(f"The training processes ended with exit code {process.returncode}:\n{''.join(tail)[-3000:]}")
        return outcome

    return run


def _tell(kind: str, value: Any) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"{MARK}{json.dumps([kind, value], default=str)}", flush=True)


def main(path: str) -> None:
    spec = json.loads(Path(path).read_text())
    try:
        outcome = train_lora(
            Path(spec["model"]),
            spec["train"],
            spec["validation"],
            Path(spec["out"]),
            Recipe(**spec["recipe"]),
            on_point=lambda point: _tell("point", asdict(point)),
            on_checkpoint=lambda step: _tell("checkpoint", step),
        )
    except (TrainingFailed, NothingToLearn) as error:
        _tell("failed", [error.code, error.message])
        sys.exit(1)
    _tell("done", asdict(outcome))


if __name__ == "__main__":
    main(sys.argv[1])
