"""`python -m despina` is the command `despina`."""

from __future__ import annotations

from .frontends.cli import main

if __name__ == "__main__":
    main()
