"""The examples, run as a reader would run them, against a server started on the example models."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import despina
import numpy as np
import pytest
import tritonclient.grpc

from tests.conformance.servers import running_despina
from tests.examples.named_extras import closure, environment, modules, named

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """A server over the example repository."""
    with running_despina(models, tmp_path_factory.mktemp("examples")) as running:
        yield running


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """A function that gives the interpreter for an example: of an environment with what it names, and nothing else."""
    made: dict[tuple[str, ...], Path] = {}

    def interpreter(example: str) -> Path:
        requirements = tuple(named((EXAMPLES / example).read_text()))
        if requirements not in made:
            made[requirements] = environment(tmp_path_factory.mktemp("named") / "venv", list(requirements))
        return made[requirements]

    return interpreter


def printed(*command: str | Path) -> str:
    """What a program prints; failing it fails the test with its complaint."""
    done = subprocess.run(command, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PROGRAMS = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))


def imported(text: str) -> set[str]:
    """The names at the top of all modules that a program imports, the standard library's left out."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_examples_import_is_in_what_they_name(program):
    """Goal: who runs the `pip install` line of an example can run the example, and gets nothing that it needs not: each
    extra that is named brings something."""
    text = (EXAMPLES / program).read_text()
    assert imported(text) <= modules(named(text))
    for requirement in named(text):
        bare, _, extras = requirement.partition("[")
        assert not extras or closure([requirement]).keys() > closure([bare]).keys(), requirement


def test_pages_name_the_same_extras():
    """Goal: the table of examples says of each program what the program says, and the README what its snippet needs."""
    rows = [line for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith("| 0")]
    for program in PROGRAMS:
        (row,) = (row for row in rows if row.startswith(f"| {program} |"))
        assert named(row) == named((EXAMPLES / program).read_text())
    page = (EXAMPLES.parent / "README.md").read_text()
    (snippet,) = re.findall(
        r"And with Triton's own client \(`\.venv/bin/pip install '([^']+)'`\):\n\n```python\n(.*?)```", page, re.DOTALL
    )
    assert imported(snippet[1]) <= modules([snippet[0]])
    assert snippet[0] == named((EXAMPLES / "02_tritonclient_http.py").read_text())[0]


def test_extras_that_are_missing_are_noticed(tmp_path):
    """Goal: the check can fail. Method: the gRPC client where only the HTTP client's extra is named."""
    text = (EXAMPLES / "03_tritonclient_grpc.py").read_text().replace("[grpc]", "[http]")
    interpreter = environment(tmp_path / "venv", named(text))
    done = subprocess.run([interpreter, "-c", "import tritonclient.http"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([interpreter, "-c", "import tritonclient.grpc"], capture_output=True, text=True, timeout=60)
    assert "grpc" in done.stderr
    assert done.returncode == 1


def test_fetching_again_does_nothing(models):
    """Goal: the script may run before every start. Method: run it where all is in place; it stays silent and quick."""
    assert printed(sys.executable, EXAMPLES / "fetch_models.py") == ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl(server):
    """Goal: the shell example shows readiness, sums and labels."""
    text = printed("sh", EXAMPLES / "01_curl.sh", f"127.0.0.1:{server.http_port}")
    assert text.splitlines()[1] == "200"
    assert '"data":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]' in text
    assert "HTTP/1.1 200" in text
    assert "shell" in text
    assert '"data":["sql"]' in text


def test_http_client(server, python):
    """Goal: Triton's HTTP client gets right sums and the right kinds of files."""
    text = printed(
        python("02_tritonclient_http.py"), EXAMPLES / "02_tritonclient_http.py", f"127.0.0.1:{server.http_port}"
    )
    assert "ready: True" in text
    assert "[ 1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16]" in text
    assert "file type: python" in text
    assert "file type: pdf" in text


def test_grpc_client(server, python):
    """Goal: Triton's gRPC client works for one call and for a stream, in order."""
    text = printed(
        python("03_tritonclient_grpc.py"), EXAMPLES / "03_tritonclient_grpc.py", f"127.0.0.1:{server.grpc_port}"
    )
    models = ["addsub", "file_features", "file_label", "file_type", "magika", "silero_vad", "silero_vad_stream"]
    assert f"models: {[*models, 'speech_parts']}" in text
    assert "this file: python" in text
    assert text.endswith("stream answer 0: 0\nstream answer 1: 2\nstream answer 2: 4\n")


@pytest.mark.usefixtures("models")
def test_file_types_of_all_lengths():
    """Goal: the ensemble of features, magika and labels knows what is too short for the model, and each of its models
    has executed what came for it, in one batch."""
    contents = [
        b"",
        b" ",
        b"ab",
        b"\xff\xfe",
        b"import os\n\nprint(os.getcwd())\n" * 9,
        b"<html><body><p>x</p></body></html>" * 9,
    ]
    with despina.blocking.open_engine(
        EXAMPLES / "models", model_control_mode="explicit", load_model=["file_type"]
    ) as engine:
        found = engine.infer("file_type", {"CONTENT": np.array([[one] for one in contents], np.object_)})
        labels = [label.decode() for label in found["LABEL"].ravel()]
        assert labels == ["empty", "txt", "txt", "unknown", "python", "html"]
        assert (found["SCORE"].ravel()[:4] == 1).all()
        assert (found["SCORE"].ravel()[4:] > 0.5).all()
        counted = {one.name: one for one in engine.statistics()}
        assert sorted(counted) == ["file_features", "file_label", "file_type", "magika"]
        assert {(one.inference_count, one.execution_count) for one in counted.values()} == {(6, 1)}
        only = engine.infer("file_type", {"CONTENT": np.array([[b"ab"]], np.object_)}, outputs=["SCORE"])
        assert list(only) == ["SCORE"]


@pytest.mark.usefixtures("models")
def test_engine_in_trio(python):
    """Goal: the engine works inside a trio program, without a server."""
    text = printed(python("04_embed_in_trio.py"), EXAMPLES / "04_embed_in_trio.py")
    assert "100 inferences in" in text
    assert "this file is python" in text


@pytest.mark.usefixtures("models")
def test_engine_for_threads(python):
    """Goal: the blocking form works from several threads."""
    assert (
        printed(python("05_embed_blocking.py"), EXAMPLES / "05_embed_blocking.py")
        == f"15 + 15 n: {[15 + 15 * n for n in range(8)]}\n"
    )


def test_voice_activity(server, python):
    """Goal: silence and a tone are no speech, a sung vowel is; the state travels between the calls."""
    text = printed(python("06_voice_activity.py"), EXAMPLES / "06_voice_activity.py", f"127.0.0.1:{server.http_port}")
    highest = {line.split()[0]: float(line.split()[2]) for line in text.splitlines()}
    assert highest["silence"] < 0.1
    assert highest["tone"] < 0.1
    assert highest["vowel"] > 0.8


def test_voice_activity_stream(server, python):
    """Goal: stretches of speech where the recording's own annotation has them, within a quarter of a second."""
    text = printed(
        python("07_voice_activity_stream.py"), EXAMPLES / "07_voice_activity_stream.py", f"127.0.0.1:{server.grpc_port}"
    )
    found = [(float(line.split()[2]), float(line.split()[5])) for line in text.splitlines()]
    # Of the turns of both speakers, in the same package; pauses shorter than a quarter of a second are none.
    annotated = [(6.69, 7.12), (7.55, 17.92), (18.05, 21.49), (21.78, 30.0)]
    assert np.array(found) == pytest.approx(np.array(annotated), abs=0.25)


def test_speech_parts(server, python):
    """Goal: the same stretches by one request, for which a model asks another one chunk by chunk."""
    text = printed(python("08_speech_parts.py"), EXAMPLES / "08_speech_parts.py", f"127.0.0.1:{server.http_port}")
    found = [(float(line.split()[0]), float(line.split()[3])) for line in text.splitlines()]
    streamed = printed(
        python("07_voice_activity_stream.py"), EXAMPLES / "07_voice_activity_stream.py", f"127.0.0.1:{server.grpc_port}"
    )
    assert found == [(float(line.split()[2]), float(line.split()[5])) for line in streamed.splitlines()]
    assert len(found) > 2


def test_the_servers_state_is_as_good_as_the_packages_own(server):
    """Goal: what the model says of real speech is what its own package says, chunk by chunk, the state being the
    server's. Method: two sequences at once, each over a stream of its own; the package's answers are recorded."""
    spec = importlib.util.spec_from_file_location("voice_activity_stream", EXAMPLES / "07_voice_activity_stream.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    recorded = json.loads((HERE / "voice_activity.json").read_text())["probabilities"]
    sound = example.read(example.CONVERSATION)

    def asked(beginning):
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            return example.speech_probabilities(client, sound[int(beginning) :], sequence_id=1 + int(beginning))

    with ThreadPoolExecutor() as pool:
        answers = dict(zip(recorded, pool.map(asked, recorded), strict=True))
    for beginning, probabilities in recorded.items():
        assert len(probabilities) > 300
        assert answers[beginning] == pytest.approx(probabilities, abs=1e-5)
