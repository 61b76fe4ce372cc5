"""Which models there are: files, configurations, loads and unloads."""
