"""Imported first in a model's process of another environment: there this package is found though it is not installed,
and so is the attrs that it needs, where that is not installed. This package is always the server's own."""

from __future__ import annotations

import importlib.util
import os
import sys

VARIABLE = "DESPINA_PACKAGES"
"""Their folders. In the environment of processes, for those that a model spawns need them, too."""

for _folder in os.environ.get(VARIABLE, "").split(os.pathsep):
    _name = os.path.basename(_folder) if os.path.isdir(_folder) else ""
    _is_wanted = _name == "despina" or (_name and importlib.util.find_spec(_name) is None)
    if _is_wanted and _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(
            _name, os.path.join(_folder, "__init__.py"), submodule_search_locations=[_folder]
        )
        assert _spec is not None
        assert _spec.loader is not None
        sys.modules[_name] = _module = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(_module)
