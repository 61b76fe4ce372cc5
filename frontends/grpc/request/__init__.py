"""A call: its head, its messages and its reply. Knows of its connection what port.py says."""
