"""What is known about models and requests: statistics, latencies, traces, health, metrics of models' own."""
