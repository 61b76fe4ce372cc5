"""Files out of a bucket, against servers that lie, die midway, are slow or list what nobody should follow."""

import logging
import threading

import pytest
from despina.engine.repository import download
from despina.engine.repository.cloud_repository import CloudRepository
from despina.engine.repository.download import Download, checked
from despina.engine.repository.locations import cloud_location
from despina.engine.repository.objects import Stored
from despina.schema.fault import InvalidArgument, Unavailable


def stored(key, size=1, at=1):
    return Stored(key, size, at, "")


class Scripted:
    """Objects by key; what is listed of them may be something else."""

    def __init__(self, contents, listing=None, page=3):
        self.contents = contents
        self.listing = sorted(
            listing or [stored(key, len(data)) for key, data in contents.items()], key=lambda s: s.key
        )
        self.page = page
        self.asked = []
        self.listings = 0
        self.fetching = self.fetching_max = 0
        self.before = lambda key: None
        self.lock = threading.Lock()

    def pages(self, folder="", after=""):
        self.listings += 1
        found = [one for one in self.listing if one.key.startswith(folder) and one.key > after]
        for start in range(0, len(found), self.page):
            yield found[start : start + self.page]

    def is_folder(self, one):
        return one.key not in self.contents

    def chunks(self, one):
        with self.lock:
            self.asked.append(one.key)
            self.fetching += 1
            self.fetching_max = max(self.fetching, self.fetching_max)
        try:
            self.before(one.key)
            data = self.contents[one.key]
            for start in range(0, len(data), 4):
                yield data[start : start + 4]
        finally:
            with self.lock:
                self.fetching -= 1


MODEL = {"m/config.pbtxt": b"text", "m/1/a": b"one", "m/2/a": b"two", "m/2/deep/b": b"0123456789", "m/labels": b""}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """`repository(objects)`: one over scripted objects, which puts models into tmp_path."""
    monkeypatch.setenv("TRITON_AWS_MOUNT_DIRECTORY", str(tmp_path))
    return lambda objects: CloudRepository(cloud_location("s3://bucket"), lambda location: objects)


def test_a_model_is_fetched_whole(repository, tmp_path):
    """Goal: bytes, folders, and empty files; nothing is left when it is discarded."""
    source = repository(Scripted({**MODEL, "n/1/a": b"x"})).fetch("m", None)
    found = {str(path.relative_to(source.path)): path.read_bytes() for path in source.path.rglob("*") if path.is_file()}
    assert found == {key[2:]: data for key, data in MODEL.items()}
    assert source.path.name == "m"
    source.discard()
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_needed_is_fetched(repository):
    """Goal: the configuration first; then the directories that it asks for."""
    objects = Scripted({**MODEL, "m/configs/x.pbtxt": b"x"})

    def needed(path, directories):
        assert (path / "config.pbtxt").read_bytes() == b"text"
        assert directories == ["1", "2", "configs"]
        return ["2", "configs"]

    source = repository(objects).fetch("m", needed)
    assert sorted(objects.asked) == ["m/2/a", "m/2/deep/b", "m/config.pbtxt", "m/configs/x.pbtxt", "m/labels"]
    assert not (source.path / "1").exists()
    source.discard()


def test_folders_that_are_listed_as_empty_objects(repository):
    listing = [
        stored("m/1", 0),
        stored("m/2", 0),
        stored("m/2/a", 3),
        stored("m/labels", 0),
        stored("m/config.pbtxt", 4),
    ]
    source = repository(Scripted({"m/2/a": b"two", "m/labels": b"", "m/config.pbtxt": b"text"}, listing)).fetch(
        "m", None
    )
    assert (source.path / "1").is_dir()
    assert (source.path / "labels").is_file()
    assert (source.path / "2" / "a").read_bytes() == b"two"
    source.discard()


@pytest.mark.parametrize(
    "key",
    [
        "m/../evil",
        "m/1/../../../evil",
        "m/./a",
        "m//etc/passwd",
        "m/1/",
        "m/a\0b",
        "m/" + "x" * 256,
        "m/" + "a/" * 64 + "a",
        "m/\udcff",
        "m/config.pbtxt/below",
    ],
)
def test_hostile_keys_are_refused(repository, tmp_path, key):
    """Goal: nothing is fetched, and nothing is written anywhere."""
    objects = Scripted(MODEL, [*Scripted(MODEL).listing, stored(key)])
    with pytest.raises(InvalidArgument, match="the listing has "):
        repository(objects).fetch("m", None)
    assert objects.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_listing_that_says_a_key_twice():
    with pytest.raises(InvalidArgument, match="twice"):
        checked("m/", [stored("m/a"), stored("m/a")])
    with pytest.raises(InvalidArgument, match="size that is none"):
        checked("m/", [stored("m/a", -1)])


class Endless(Scripted):
    """A million objects and more."""

    def __init__(self, key):
        super().__init__({})
        self.key = key
        self.pages_given = 0

    def pages(self, folder="", after=""):
        for number in range(1_000):
            self.pages_given += 1
            keys = [self.key(number * 1_000 + index) for index in range(1_000)]
            yield [stored(key) for key in keys if key > after]


def test_a_million_objects_of_a_model(repository, tmp_path):
    objects = Endless(lambda number: f"m/1/{number:09d}")
    with pytest.raises(InvalidArgument, match="more than 100000 objects"):
        repository(objects).fetch("m", None)
    with pytest.raises(InvalidArgument):
        repository(objects).times_ns("m")
    assert objects.pages_given <= 202
    assert list(tmp_path.iterdir()) == []


def test_a_million_models(repository):
    objects = Endless(lambda number: f"m{number:09d}/config.pbtxt")
    with pytest.raises(InvalidArgument, match="more than 100000 objects to look at"):
        repository(objects).directories()
    assert objects.pages_given <= 101


def test_a_model_with_many_objects_is_skipped_when_models_are_listed(repository):
    """Goal: not page by page through what belongs to one model."""
    contents = {f"big/1/{number:05d}": b"" for number in range(50_000)} | {
        "a/x": b"",
        "big2/x": b"",
        "c/x": b"",
        "file": b"",
    }
    objects = Scripted(contents, page=1000)
    assert sorted(repository(objects).directories()) == ["a", "big", "big2", "c"]
    assert objects.listings == 2


@pytest.mark.parametrize(("said", "is_there"), [(5, b"1234"), (5, b""), (3, b"1234"), (1, b"x" * 100_000)])
def test_wrong_sizes(repository, tmp_path, said, is_there):
    """Goal: nothing of the model is used, and nothing of it stays."""
    objects = Scripted({**MODEL, "m/2/a": is_there}, [stored("m/config.pbtxt", 4), stored("m/2/a", said)])
    with pytest.raises(Unavailable, match=f"but the listing says {said}: nothing of it is used"):
        repository(objects).fetch("m", None)
    assert list(tmp_path.iterdir()) == []


def test_more_than_there_is_room_for(repository, tmp_path):
    objects = Scripted(MODEL, [stored("m/config.pbtxt", 4), stored("m/1/a", 2**60)])
    with pytest.raises(Unavailable, match="has room for"):
        repository(objects).fetch("m", None)
    assert objects.asked == ["m/config.pbtxt"]
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_midway(repository, tmp_path):
    """Goal: the first failure ends it: no other file is begun, and nothing stays."""
    contents = {f"m/1/{number:03d}": b"x" * 100 for number in range(200)}

    def die(key):
        if key.endswith("7"):
            raise Unavailable("gone")

    objects = Scripted(contents)
    objects.before = die
    with pytest.raises(Unavailable, match="gone"):
        repository(objects).fetch("m", None)
    assert len(objects.asked) < 60
    assert list(tmp_path.iterdir()) == []


def test_files_come_at_the_same_time_and_not_too_many(tmp_path):
    """Goal: as many as the bound, no more."""
    contents = {f"{number:03d}": b"x" for number in range(50)}
    objects = Scripted(contents)
    together = threading.Barrier(download.FETCHES_MAX)
    first = set(list(contents)[: download.FETCHES_MAX])

    def meet(key):
        if key in first:
            together.wait(10)

    objects.before = meet
    Download("m", objects, tmp_path, [(one.key, one) for one in objects.listing]).run()
    assert objects.fetching_max == download.FETCHES_MAX
    assert len(list(tmp_path.iterdir())) == 50


class Clock:
    def __init__(self, step):
        self.now = 0.0
        self.step = step

    def monotonic(self):
        self.now += self.step
        return self.now


def test_a_server_that_sends_a_byte_now_and_then(tmp_path, monkeypatch):
    """Goal: a file that would take for ever is given up after a minute."""
    monkeypatch.setattr(download, "time", Clock(10.0))
    objects = Scripted({"a": b"x" * 4_000})
    with pytest.raises(Unavailable, match="comes too slowly"):
        Download("m", objects, tmp_path, [("a", stored("a", 4_000))]).run()


def test_progress_is_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(download, "time", Clock(1.0))
    objects = Scripted({"a": b"x" * 40})
    with caplog.at_level(logging.INFO):
        Download("m", objects, tmp_path, [("a", stored("a", 40))]).run()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) in (2, 3, 4)
    assert lines[0].startswith("fetching m: 0 of 1 files, 0.0 of 0.0 MiB")
