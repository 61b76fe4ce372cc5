"""`python -m despina.frontends.capi --cflags --libs`: what a C program is compiled and linked with."""

from __future__ import annotations

import argparse
import sys

from ...native.loading import built_folder
from ...schema.fault import Unavailable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m despina.frontends.capi", description=__doc__)
    parser.add_argument("--cflags", action="store_true", help="for the compiler: where the headers are")
    parser.add_argument("--libs", action="store_true", help="for the linker: the library, and where it is found later")
    parser.add_argument("--pkg-config-path", action="store_true", help="the folder of tritonserver.pc")
    asked = parser.parse_args()
    try:
        folder = built_folder()
    except Unavailable as fault:
        print(fault.message, file=sys.stderr)
        return 1
    words = [f"-I{folder / 'include'}"] if asked.cflags else []
    if asked.libs:
        words += [f"-L{folder / 'lib'}", "-ltritonserver", f"-Wl,-rpath,{folder / 'lib'}"]
    if asked.pkg_config_path:
        words.append(str(folder / "pkgconfig"))
    if not words:
        parser.print_usage(sys.stderr)
        return 2
    print(*words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
