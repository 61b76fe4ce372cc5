"""Virtual time and engines over the scripted backend, as the engine's own tests have them."""

from tests.unit.engine.conftest import backend, opened, repository, virtual_time

__all__ = ["backend", "opened", "repository", "virtual_time"]
