"""One image network in the files of every framework gives one answer through every door."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import trio
import tritonclient.grpc
import tritonclient.http

from tests.conformance import image_network
from tests.doors import both_doors

IMAGES = image_network.IMAGES


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Six models of the network."""
    return image_network.repository(tmp_path_factory.mktemp("frameworks"))


def asked(module, port, name, **binary):
    """The scores by one of Triton's clients. It blocks."""
    image = module.InferInput("image", list(IMAGES.shape), "FP32")
    image.set_data_from_numpy(IMAGES, **binary)
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        found = client.infer(name, [image], outputs=[module.InferRequestedOutput("scores", **binary)])
        return found.as_numpy("scores")


async def test_the_same_answer_from_every_framework_through_every_door(repository):
    """Goal: who changes the framework, or the door, gets the same numbers. Method: numpy computes them, too."""
    expected = image_network.scores(IMAGES)
    assert np.ptp(expected) > 1
    found = {}
    async with both_doors(repository) as doors:
        for name in image_network.MAKERS:
            with trio.fail_after(60):
                found[name, "embedded"] = (await doors.engine.infer(name, {"image": IMAGES}))["scores"]
                for door, module, port, options in (
                    ("HTTP", tritonclient.http, doors.http_port, {}),
                    ("HTTP, JSON", tritonclient.http, doors.http_port, {"binary_data": False}),
                    ("gRPC", tritonclient.grpc, doors.grpc_port, {}),
                ):
                    found[name, door] = await trio.to_thread.run_sync(partial(asked, module, port, name, **options))
    assert len(found) == 4 * len(image_network.MAKERS)
    for key, scores in found.items():
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4, err_msg=str(key))
    for name in image_network.MAKERS:  # and a framework gives each door the same bits
        for door in ("HTTP", "HTTP, JSON", "gRPC"):
            np.testing.assert_array_equal(found[name, door], found[name, "embedded"])
