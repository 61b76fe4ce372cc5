"""What answers requests: one handler for each route. Knows no carrier."""
