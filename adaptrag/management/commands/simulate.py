"""`simulate DIR`: watch the router learn, with users played by a data set's gold answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from adaptrag.common.commands import FAILED
from adaptrag.common.errors import InvalidInput
from adaptrag.simulation import Journal, Simulation, part_of, play, play_alone
from agents.commands import AskingCommand
from agents.selectors import answering_variants, collection_for, live_variant
from agents.services import beir_collection, derived_prepare
from evals.sets import read_beir

BARS = 30


class Command(AskingCommand):
    help = "Run the real loop with simulated users: a BEIR folder's gold answers rate and correct what the agents say."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("dataset", type=Path, help="a BEIR folder with answers")
        parser.add_argument("--rounds", type=int, default=300)
        parser.add_argument("--agents", default="", help="names, separated by commas (default: all that are live)")
        parser.add_argument("--feedback-rate", type=float, default=1.0, help="share of answers that are rated")
        parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the ratings")
        parser.add_argument("--correct-rate", type=float, default=0.3, help="share of poor answers that are corrected")
        parser.add_argument("--parallel", type=int, default=4)
        parser.add_argument("--top-k", type=int, default=5)
        parser.add_argument("--seed", type=int, default=0, help="of the questions' order and of what people do")
        parser.add_argument("--window", type=int, default=0, help="rounds per window (default: a tenth of them)")
        parser.add_argument("--part", choices=("A", "B", "C", "all"), default="A", help="part of the questions that is asked")
        parser.add_argument("--alone", action="store_true", help="also ask each agent by itself, and report the regret")
        parser.add_argument("--resume", action="store_true", help="go on where the same simulation stopped")

    def run(self, options: dict[str, Any]) -> dict[str, Any]:
        folder = options["dataset"].expanduser()
        if not folder.is_dir():
            raise InvalidInput(f"There is no folder {str(folder)!r}; name a BEIR folder (corpus.jsonl, queries.jsonl).")
        self.have_agents()
        items = [item for item in read_beir(folder) if options["part"] in ("all", part_of(item.key))]
        collection = beir_collection(folder, progress=self.progress).name
        simulation = Simulation(
            collection=collection,
            agents=tuple(name.strip() for name in options["agents"].split(",") if name.strip()),
            **{
                name: options[name]
                for name in ("rounds", "feedback_rate", "noise", "correct_rate", "parallel", "top_k", "seed")
            },
        )
        simulation.check()
        derived_prepare(collection_for(collection), [live_variant(name) for name in simulation.agents], self.progress)
        window = options["window"] or max(1, simulation.rounds // 10)
        path = Path(settings.DATA_DIR) / "simulations" / f"{collection}-{options['part']}-{simulation.seed}.jsonl"
        journal = Journal(path, simulation, resume=options["resume"])
        outcome = play(simulation, items, journal, progress=self.progress, window=window)
        alone = {}
        if outcome.interrupted:
            self.exit_code = FAILED
            self.stderr.write(f"\nInterrupted after {len(outcome.rounds)} rounds; the same command with --resume goes on.")
        elif options["alone"]:
            agents = simulation.agents or [variant.name for variant in answering_variants()]
            alone = play_alone(simulation, items, agents, outcome.rounds, progress=self.progress)
        outcome = type(outcome)(rounds=outcome.rounds, interrupted=outcome.interrupted, alone=alone)
        return outcome.as_dict(window) | {"collection": collection, "part": options["part"], "journal": str(path)}

    def show(self, result: dict[str, Any]) -> None:
        write = self.stdout.write
        agents = sorted(result["agents"])
        regret = "best_fixed" in result
        names = "".join(f"  {agent[:14]:>14}" for agent in agents)
        write(f"{'rounds':>13}  {'reward':>6}  {'':{BARS}}{names}{'  regret' if regret else ''}")
        for window in result["windows"]:
            bar = "█" * round(BARS * window["mean_reward"])
            shares = "".join(f"  {window['traffic'].get(agent, 0.0):>14.0%}" for agent in agents)
            lost = f"  {window['regret']:>6.1f}" if regret else ""
            write(f"{window['from']:>6}-{window['to']:<6}  {window['mean_reward']:>6.3f}  {bar:{BARS}}{shares}{lost}")
        write("")
        for agent, figures in result["agents"].items():
            alone = f"; alone {result['alone'][agent]['mean_reward']:.3f}" if regret else ""
            write(f"{agent}: mean reward {figures['mean_reward']:.3f} over {figures['n']} answers{alone}")
        write(f"All {result['rounds']} rounds: mean reward {result['mean_reward']:.3f}; {result['failed']} answers failed.")
        if regret:
            best = result["best_fixed"]
            write(
                f"Best agent alone: {best['agent']} with {best['mean_reward']:.3f}; regret against it {result['regret']:.1f}. "
                f"The best agent for each question would have had {result['oracle']:.3f}."
            )
        else:
            write("Regret against each agent by itself: --alone asks all of them the same questions.")
