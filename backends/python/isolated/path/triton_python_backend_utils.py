"""On the path of a model's own process, and of those that it spawns: the module by the name that models import."""

import sys

from despina.backends.python import triton_python_backend_utils

sys.modules[__name__] = triton_python_backend_utils
