"""What shows that a backend keeps its word; public as `despina.testing`."""
