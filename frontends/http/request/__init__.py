"""What carriers and handlers have in common: one request, its settings' bounds, and what breaks on its way."""
