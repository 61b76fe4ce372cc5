"""What others implement or see: Protocols and values. The lowest floor: imports nothing else of the engine."""
