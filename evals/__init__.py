"""How we know: offline evaluation of agents, models and policies."""
