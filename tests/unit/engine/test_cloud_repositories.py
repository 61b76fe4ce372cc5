"""Models out of a bucket, over HTTP: an S3 server in this process, and servers that are none."""

import contextlib
import fcntl
import http.client
import http.server
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import boto3
import despina
import pytest
import trio
from despina.engine.repository import objects
from despina.engine.repository.temporary import TemporaryDirectory, sweep
from despina.schema.fault import Internal, InvalidArgument, Unavailable, Unsupported
from moto.server import ThreadedMotoServer

from tests.fakes import FakeBackend, config_text, request, value_of

EXPLICIT = {"model_control_mode": "explicit"}
NOT_READ = "failed to load 'm', failed to poll from model repository"


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """Who we are; no other account of the machine has a say."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "TRITON_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "fetched").mkdir()
    monkeypatch.setenv("TRITON_AWS_MOUNT_DIRECTORY", str(tmp_path / "fetched"))
    return tmp_path / "fetched"


class Bucket:
    def __init__(self, server, name):
        self.location = f"s3://{server}/{name}/models"
        self.name = name
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{server}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=name)

    def put(self, key, data=b""):
        self.client.put_object(Bucket=self.name, Key=f"models/{key}", Body=data)

    def model(self, name, versions=(1,), **options):
        self.put(f"{name}/config.pbtxt", config_text(**options).encode())
        for version in versions:
            self.put(f"{name}/{version}/model.x", b"weights")

    def empty(self):
        for entry in self.client.list_objects_v2(Bucket=self.name).get("Contents", ()):
            self.client.delete_object(Bucket=self.name, Key=entry["Key"])


@pytest.fixture
def bucket(server, keys, request):
    found = Bucket(server, f"bucket{abs(hash(request.node.name))}")
    yield found
    found.empty()


def opened(location, backend, **options):
    return despina.open_engine(location, backends={"fake": backend}, **options)


async def test_models_are_served_from_a_bucket(bucket, keys, backend):
    """Goal: all of them, from files of this machine, which are gone when the engine is."""
    bucket.model("m", versions=(1, 3))
    bucket.put("n/", b"")
    bucket.put("n/config.pbtxt", config_text().encode())
    bucket.put("n/1/", b"")
    bucket.put("a file", b"")
    async with opened(bucket.location, backend) as engine:
        assert [(entry.name, entry.version, entry.state) for entry in await engine.index()] == [
            ("m", "3", "READY"),
            ("n", "1", "READY"),
        ]
        assert value_of(await engine.infer_request(request(value=5))) == 5
        path = next(context.version_path for context in backend.contexts if context.name == "m")
        assert path.is_relative_to(keys)
        assert (path / "model.x").read_bytes() == b"weights"
        assert not (path.parent / "1").exists()
    assert list(keys.iterdir()) == []


async def test_explicit_loads_of_what_has_changed(bucket, keys, backend):
    """Goal: an unchanged model is not fetched again; a changed one is, and the old files go; so they do after an
    unload. Configurations and files that come with a load work as for directories."""
    bucket.model("m")
    async with opened(bucket.location, backend, **EXPLICIT) as engine:
        await engine.load("m")
        await engine.load("m")
        assert len(backend.opened) == 1
        assert len(list(keys.iterdir())) == 1
        await trio.sleep(1.1)  # S3 tells whole seconds
        bucket.model("m", versions=(2,))
        await engine.load("m")
        assert [model.version for model in engine.versions()] == [2]
        await until(lambda: len(list(keys.iterdir())) == 1)
        await engine.load("m", config=OVERRIDE)
        assert engine.model("m").config.max_batch_size == 3
        assert [model.version for model in engine.versions()] == [1]
        await engine.load("m", config=OVERRIDE, files={"1/model.x": b""})
        await until(lambda: list(keys.iterdir()) == [])
        await engine.load("m")
        await engine.unload("m")
        await until(lambda: list(keys.iterdir()) == [])


OVERRIDE = (
    '{"backend": "fake", "max_batch_size": 3, "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}],'
    ' "output": [{"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]}],'
    ' "version_policy": {"specific": {"versions": [1]}}}'
)


async def until(condition):
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # it is about files
            await trio.sleep(0.01)


async def test_polls_follow_the_bucket(bucket, keys, backend):
    """Goal: models come, change and go."""
    bucket.model("m")
    async with opened(bucket.location, backend, model_control_mode="poll", repository_poll_secs=0) as engine:
        bucket.model("n")
        await engine.poll()
        assert engine.is_model_ready("n")
        await trio.sleep(1.1)
        bucket.model("m", versions=(4,))
        await engine.poll()
        assert engine.is_model_ready("m", 4)
        bucket.empty()
        await engine.poll()
        assert not engine.is_model_ready("m")
        assert not engine.is_model_ready("n")


async def test_a_hostile_bucket(bucket, keys, backend, caplog):
    """Goal: a model whose keys leave its directory is refused; others are loaded by name."""
    bucket.model("m")
    bucket.model("n")
    bucket.put("m/../../evil", b"x")
    async with opened(bucket.location, backend, **EXPLICIT) as engine:
        with pytest.raises(Internal, match=NOT_READ):
            await engine.load("m")
        await engine.load("n")
        assert "Poll failed for model directory 'm'" in caplog.text
        assert len(list(keys.iterdir())) == 1


async def test_a_bucket_that_is_not_there(server, keys, backend):
    """Goal: the start fails and says which."""
    location = f"s3://{server}/nowhere/models"
    with pytest.raises(Unavailable, match=f"listing {location} failed: .*NoSuchBucket"):
        async with opened(location, backend):
            pass


async def test_local_and_cloud_side_by_side(bucket, keys, backend, tmp_path):
    (tmp_path / "local").mkdir()
    bucket.model("m")
    async with despina.open_engine([tmp_path / "local", bucket.location], backends={"fake": backend}) as engine:
        assert engine.is_model_ready("m")


async def test_a_registered_bucket(bucket, keys, backend, tmp_path):
    bucket.model("old")
    async with opened(tmp_path, backend, **EXPLICIT) as engine:
        await engine.register_model_repository(bucket.location, {"m": "old"})
        await engine.load("m")
        assert value_of(await engine.infer_request(request(value=2))) == 2
        assert engine.model("m").config.name == "m"


# --- Servers that are none


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(objects, "SILENCE_S", 0.3)
    monkeypatch.setattr(objects, "CONNECT_S", 0.3)
    monkeypatch.setattr(objects, "RETRIES", 1)
    monkeypatch.setattr(objects, "RETRY_S", 1.0)


async def test_a_dead_server(keys, backend, tmp_path, impatient):
    """Goal: loads fail in time, and models of other repositories are loaded meanwhile."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # and never answers
        location = f"s3://127.0.0.1:{listening.getsockname()[1]}/bucket"
        (tmp_path / "local" / "n" / "1").mkdir(parents=True)
        (tmp_path / "local" / "n" / "config.pbtxt").write_text(config_text())
        began = time.monotonic()
        options = {"model_control_mode": "explicit", "exit_on_error": False}
        async with despina.open_engine([tmp_path / "local", location], backends={"fake": backend}, **options) as engine:
            assert engine.is_live()
            with pytest.raises(Internal):
                await engine.load("m")
            with pytest.raises(Unavailable):
                await engine.index()
            with pytest.raises(Unavailable):
                await engine.register_model_repository(location + "/other")
        assert time.monotonic() - began < 30


@contextlib.contextmanager
def through(server, spoil, *, silent=False):
    """A server before the S3 server: `spoil(path, body)` may shorten what comes back; then it is `silent`, or gone."""
    host, _, port = server.partition(":")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            connection = http.client.HTTPConnection(host, int(port), timeout=10)
            connection.request("GET", self.path, headers={"Host": self.headers["Host"]})
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name in ("ETag", "Last-Modified", "Content-Type"):
                if answer.headers.get(name):
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            spoilt = spoil(self.path, body)
            with contextlib.suppress(OSError):
                self.wfile.write(spoilt)
                if len(spoilt) < len(body) and silent:
                    over.wait(30)
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    over = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{proxy.server_address[1]}"
        finally:
            over.set()
            proxy.shutdown()
            thread.join()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_server_that_breaks_off(server, bucket, keys, backend, impatient, silent):
    """Goal: what had served goes on, nothing half is there, and the same load works once the server does."""
    bucket.client.put_bucket_acl(Bucket=bucket.name, ACL="public-read")
    bucket.model("m")
    broken = [False]

    def spoil(path, body):
        return body[: len(body) // 2] if broken[0] and path.endswith("model.x") else body

    with through(server, spoil, silent=silent) as proxy:
        async with opened(f"s3://{proxy}/{bucket.name}/models", backend, **EXPLICIT) as engine:
            await trio.to_thread.run_sync(allow_all, bucket)
            await engine.load("m")
            await trio.sleep(1.1)
            bucket.model("m", versions=(2,))
            await trio.to_thread.run_sync(allow_all, bucket)
            broken[0] = True
            with pytest.raises(Internal, match=NOT_READ):
                await engine.load("m")
            assert engine.is_model_ready("m", 1)
            assert value_of(await engine.infer_request(request(value=1))) == 1
            assert len(list(keys.iterdir())) == 1
            broken[0] = False
            await engine.load("m")
            assert engine.is_model_ready("m", 2)


def allow_all(bucket):
    """The server before the server signs nothing."""
    for entry in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ()):
        bucket.client.put_object_acl(Bucket=bucket.name, Key=entry["Key"], ACL="public-read")


def test_without_the_package(keys, monkeypatch):
    """Goal: the text says what to install."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(Unsupported) as caught:
        objects.Bucket(objects_location("gs://bucket"))
    assert caught.value.message.startswith(
        "gs:// file-system not supported. To enable, `pip install 'despina[cloud]'`:"
    )


def objects_location(text):
    from despina.engine.repository.locations import cloud_location

    found = cloud_location(text)
    assert found is not None
    return found


def test_credentials_of_no_use(keys, monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(InvalidArgument, match="the credentials for gs://bucket are of no use"):
        objects.Bucket(objects_location("gs://bucket"))


async def test_a_public_bucket_of_googles(server, bucket, backend, impatient, monkeypatch, tmp_path, caplog):
    """Goal: without a credential and without a machine's own, nobody is who asks. Method: the server speaks both."""
    bucket.model("m")
    allow_all(bucket)
    monkeypatch.setattr(objects, "SILENCE_S", 10.0)  # this server answers, on a busy machine after a while
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(objects, "options", lambda location, environment: {"base_url": f"http://{server}"})
    with caplog.at_level(logging.INFO):
        async with opened(f"gs://{bucket.name}/models", backend) as engine:
            assert value_of(await engine.infer_request(request(value=9))) == 9
    assert "trying without any" in caplog.text


def test_azure_takes_what_it_is_given(keys, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    objects.Bucket(objects_location("as://account/container/a"))


# --- What a process leaves behind


def test_what_a_process_left_that_died(tmp_path):
    """Goal: the next one removes it, and nothing that is in use, of others or of another kind."""
    code = (
        "import os\nfrom despina.engine.repository.temporary import TemporaryDirectory\n"
        f"path = TemporaryDirectory({str(tmp_path)!r}).path\n(path / 'm').mkdir()\nos._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    used = TemporaryDirectory(str(tmp_path))
    (tmp_path / "despina-model-linked").symlink_to(used.path)
    (tmp_path / "despina-model-bare").mkdir()
    (tmp_path / "other").mkdir()
    sweep([str(tmp_path), str(tmp_path / "nowhere")])
    assert {path.name for path in tmp_path.iterdir()} == {
        used.path.name,
        "despina-model-linked",
        "despina-model-bare",
        "other",
    }
    used.remove()
    used.remove()
    assert not used.path.exists()


def test_a_directory_is_locked_while_it_is_used(tmp_path):
    used = TemporaryDirectory(str(tmp_path))
    with (used.path / ".lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    used.remove()


async def test_an_engine_sweeps_when_it_starts(virtual_time, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_GCS_MOUNT_DIRECTORY", str(tmp_path / "gcs"))
    left = tmp_path / "gcs" / "despina-model-left"
    left.mkdir(parents=True)
    (left / ".lock").touch()
    async with opened(repository, FakeBackend()):
        assert not left.exists()
