"""The C API as data: functions.tsv, values.tsv and callbacks.tsv, read by api.py. Headers and stubs follow it."""
