"""Feeds damaged JSON to the reader of a load's configuration.

    python fuzz/fuzz_config_json.py [--seconds 60] [--seed 1]

What is read must be written and read back as the same message. Any exception but InvalidArgument, or another message,
ends the run; the text is printed as a Python literal, and the seed reproduces it.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from despina.schema.fault import InvalidArgument
from despina.schema.model_config import config_from_json, config_to_json, parse_config

SEEDS = Path(__file__).parent / "seeds" / "pbtxt"
PIECES = [
    *("{", "}", "[", "]", ",", ",,", ":", '"', "'", "\\", "\n", "\v", "\\u12", "\\ud83d", "\\q", "\ud800", "\x00", "é"),
    *("null", "true", "false", '"false"', "name", '"dims":', "input:", "-", "8.", "1e400", "01", '"+1"', "[[1]]", "{}"),
]


def damaged(text: str, chance: random.Random) -> str:
    """`text` after a few cuts, insertions and repetitions."""
    for _ in range(chance.randint(0, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 3, 20, 200]))
        match chance.randrange(3):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + chance.choice(PIECES) + text[start:]
            case 2:
                text = text[:end] + text[start:end] + text[end:]
    return text


def check(text: str) -> bool:
    """Whether the text was read. Raises AssertionError, or whatever the reader should not have raised."""
    try:
        config = config_from_json(text)
    except InvalidArgument as fault:
        fault.message.encode()  # it is sent to a client
        return False
    written = config_to_json(config)
    assert bytes(config_from_json(written or b"{}")) == bytes(config), "written and read, it is another one"
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    texts = [config_to_json(parse_config(path.read_bytes())).decode() for path in sorted(SEEDS.iterdir())]
    until = time.monotonic() + options.seconds
    count = read = 0
    while time.monotonic() < until:
        text = damaged(chance.choice(texts), chance)
        try:
            read += check(text)
        except Exception:
            print(f"seed {options.seed}, text {count}: {text!r}")
            raise
        count += 1
    assert read, "every text was refused: nothing was tested"
    print(f"{count} texts, {read} of them read, no finding")


if __name__ == "__main__":
    main()
