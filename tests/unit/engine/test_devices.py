"""Which GPUs there are for this process: a driver's folders and an environment, as they are on real machines."""

import pytest
from despina.engine.port.visible_gpus import visible_gpus
from despina.engine.repository.devices import find_gpus
from hypothesis import given
from hypothesis import strategies as st

UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-bbbb-3"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("0,3,1", [0]),
        ("0,-1,1", [0]),
        ("0,0", [0]),
        ("0,,1", [0]),
        ("GPU-bbbb-3", [2]),
        ("GPU-bb", [2]),
        ("GPU-aab,0", [1, 0]),
        ("GPU-aa", []),
        ("GPU-zz,0", []),
        ("MIG-GPU-aabb-2/1/0,0", [1]),
        ("MIG-0123", [0]),
    ],
)
def test_what_is_visible(wanted, expected):
    """Numbers and beginnings of UUIDs, in their order, up to the first that names nothing."""
    assert visible_gpus(UUIDS, wanted) == expected
    assert visible_gpus([], wanted) == []


@given(st.text(alphabet="0123,-+ GPUab") | st.text())
def test_any_text(wanted):
    """Whatever the variable holds: devices that exist, each once."""
    found = visible_gpus(UUIDS, wanted)
    assert sorted(set(found)) == sorted(found)
    assert set(found) <= {0, 1, 2}


def test_the_drivers_folders(tmp_path):
    """One folder a GPU, each with its UUID where it can be read; ordinals count what is visible."""
    for number, uuid in enumerate(UUIDS):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(f"Model: \t X\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n")
    assert find_gpus(tmp_path, {}) == [0, 1, 2]
    assert find_gpus(tmp_path, {"CUDA_VISIBLE_DEVICES": "2,GPU-aabb"}) == [0, 1]
    assert find_gpus(tmp_path, {"CUDA_VISIBLE_DEVICES": ""}) == []
    (folder / "information").unlink()
    assert find_gpus(tmp_path, {"CUDA_VISIBLE_DEVICES": "2"}) == [0]
    assert find_gpus(tmp_path / "none", {}) == []
