"""A request from its admission to its end: jobs, streams, client memory, the ledger."""
