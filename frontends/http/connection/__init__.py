"""What carries requests: connections of our own, and hypercorn's. Knows no handler."""
