"""What calls mean: the engine behind the RPCs. Knows calls, and no transport."""
