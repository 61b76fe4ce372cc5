"""`despina new`: a model's directory, from a file or in Python.

source.py   what was given, and where its file goes
writing.py  the directory: all of it, or nothing ── configuration from the framework, config_text.py writes it
            python_model.py: a model.py and its test
"""
