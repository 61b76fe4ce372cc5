"""Feeds damaged configurations to the reader of config.pbtxt and holds its verdict against protobuf's.

    python fuzz/fuzz_pbtxt.py [--seconds 60] [--seed 1]

Needs the `client` extra. Any exception but our fault, a complaint outside the text, or another verdict than protobuf's
ends the run; the text is printed as a Python literal, and the seed reproduces it.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

from despina.schema.pbtxt import ConfigFault, parse_config
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

SEEDS = Path(__file__).parent / "seeds" / "pbtxt"
PIECES = [
    *("{", "}", "<", ">", "[", "]", ",", ";", ":", "#", '"', "'", "\\", "\n", " "),
    *("name", "input", "dims", "key", "value", "latest", "all", "true", "KIND_GPU", "7", "-3", "0.5", "1e9", '"x"'),
]

# Where protobuf's Python reader and its C++ one part, we follow C++; texts with such spellings are not compared.
INCOMPARABLE = re.compile(
    r"""[+_]?\d*_\d | \+\d | -\s | -0 | \\[^nrt"'\\] | \b0[0-9xX] | [fF]{2} | inff | \d[fF]\b | [^\x20-\x7e\n]""",
    re.VERBOSE,
)


def damaged(text: str, chance: random.Random) -> str:
    """`text` after a few cuts, insertions and repetitions."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 0, 1, 3, 20]))
        match chance.randrange(3):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + chance.choice(PIECES) + text[start:]
            case 2:
                text = text[:end] + text[start:end] + text[end:]
    return text


def check(text: str) -> None:
    """Raises AssertionError, or whatever the reader should not have raised."""
    try:
        ours = parse_config(text)
    except ConfigFault as fault:
        ours = None
        lines = text.split("\n")
        for item in fault.complaints:
            assert item.line <= len(lines), item
            assert item.column <= len(lines[item.line - 1]) + 1, item
    if INCOMPARABLE.search(text):
        return
    try:
        theirs = text_format.Parse(text, model_config_pb2.ModelConfig())
    except (text_format.ParseError, ValueError):  # ValueError for a number that no enum can have
        theirs = None
    assert (ours is None) == (theirs is None), f"we {'refuse' if ours is None else 'accept'} it, protobuf does not"
    if ours is not None:
        assert model_config_pb2.ModelConfig.FromString(bytes(ours)) == theirs, "read differently"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    texts = [path.read_text() for path in sorted(SEEDS.iterdir())]
    until = time.monotonic() + options.seconds
    count = 0
    while time.monotonic() < until:
        text = damaged(chance.choice(texts), chance)
        try:
            check(text)
        except Exception:
            print(f"seed {options.seed}, text {count}: {text!r}")
            raise
        count += 1
    print(f"{count} texts, no finding")


if __name__ == "__main__":
    main()
