"""What doors are tested against is what they see of the engine."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SNIPPET = """
from despina.engine.engine import Engine
from despina.engine.port.caller import Caller
from despina.engine.port.served import Served
from tests.fake_engine import FakeEngine, FakeModel

def real(engine: Engine) -> Caller:
    return engine

def fake(engine: FakeEngine) -> Caller:
    return engine

def served(model: FakeModel) -> Served:
    return model
"""


def checked(tmp_path, text):
    """What mypy says of a program."""
    snippet = tmp_path / "snippet.py"
    snippet.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(snippet)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    return done.stdout + done.stderr


def test_the_fake_engine_is_a_caller(tmp_path):
    """Goal: the fake and the real engine satisfy the port of the doors; something less does not."""
    assert checked(tmp_path, SNIPPET) == ""
    less = SNIPPET.replace("def fake(engine: FakeEngine)", "def fake(engine: FakeModel)")
    assert 'Incompatible return value type (got "FakeModel", expected "Caller")' in checked(tmp_path, less)
