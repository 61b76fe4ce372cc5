"""Python models in the server's own process, chosen by tests that look into it, and by those that are about something
else and start many servers: the start of a process costs time."""

SETTING = {"python": {"isolation": "none"}}
"""For `open_engine`, as `backend_config`."""

OPTION = "--backend-config=python,isolation=none"
"""For `despina serve`."""

PARAMETER = 'parameters { key: "DESPINA_ISOLATION" value { string_value: "none" } }\n'
"""For a model's configuration."""
