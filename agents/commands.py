"""What the commands share that put questions to agents."""

from __future__ import annotations

from adaptrag.common.commands import ContractCommand
from agents.services import agents_register_defaults


class AskingCommand(ContractCommand):
    """Subclasses call `have_agents` before they need one."""

    def have_agents(self) -> None:
        """Register the agents of a fresh installation where none was ever registered, and say so."""
        if made := agents_register_defaults():
            names = ", ".join(variant.name for variant in made)
            self.stderr.write(f"No agent was registered yet; there are now {names}, on the shipped chat model.")
