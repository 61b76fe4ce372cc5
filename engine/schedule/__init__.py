"""Which requests are executed next, and when: queues, batches, limits in time."""
