"""On the path of a model's own process, and of those that it spawns: the module by the name that models import."""

import importlib
import sys

importlib.import_module("despina_beside")  # from beside this: finds this package where it is not installed
sys.modules[__name__] = importlib.import_module("despina.backends.python.triton_python_backend_utils")
