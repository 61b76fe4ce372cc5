"""KServe's own package against a running server: `kserve_client.py MANIFESTS HTTP_PORT GRPC_PORT MODEL`.

Run by a Python that has kserve, in a process of its own: its pins are not ours. Prints a line for each thing that held.
"""

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import yaml
from httpx import HTTPStatusError
from kserve import InferenceGRPCClient, InferenceRESTClient, RESTConfig, models
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput
from kubernetes import client

KINDS = {"ServingRuntime": models.V1alpha1ServingRuntime, "InferenceService": models.V1beta1InferenceService}
ROW = np.arange(16, dtype=np.int32).reshape(1, 16)


def check_manifests(folder):
    """Each member of a manifest is one that KServe's and Kubernetes' own classes know."""
    for path in sorted(folder.glob("*.yaml")):
        manifest = yaml.safe_load(path.read_text())
        wrong = list(unknown(manifest, KINDS[manifest["kind"]], ""))
        assert not wrong, f"{path.name}: {wrong}"
        print("manifest", path.name)


def unknown(value, kind, at):
    """The places of members that a class, or the name of one, does not have, and of what has another form."""
    if isinstance(kind, str):
        found = re.fullmatch(r"(list\[|dict\(str, )(.+)[\])]", kind)
        if found:
            form = list if found[1].startswith("list") else dict
            if not isinstance(value, form):
                yield f"{at} is no {form.__name__}"
                return
            for key, item in value.items() if form is dict else enumerate(value):
                yield from unknown(item, found[2], f"{at}.{key}")
            return
        kind = getattr(models, kind, None) or getattr(client.models, kind, None)
        if kind is None:
            return  # a number, a text, or either
    if not isinstance(value, dict):
        yield f"{at} is no {kind.__name__}"
        return
    types = {kind.attribute_map[name]: type_name for name, type_name in kind.openapi_types.items()}
    for key, item in value.items():
        if key in types:
            yield from unknown(item, types[key], f"{at}.{key}")
        else:
            yield f"{at}.{key}"


def asked(model, *, binary):
    """A request for sums, with tensors behind the JSON or in it."""
    inputs = []
    for name in ("INPUT0", "INPUT1"):
        tensor = InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(ROW, binary_data=binary)
        inputs.append(tensor)
    outputs = [RequestedOutput("OUTPUT0", {"binary_data": True})] if binary else None
    return InferRequest(model, inputs, request_id="seven", request_outputs=outputs)


def check_answer(answer):
    sums = {output.name: output.as_numpy() for output in answer.outputs}
    assert (sums["OUTPUT0"].reshape(1, 16) == 2 * ROW).all(), sums
    assert answer.id == "seven"


async def check_clients(http_port, grpc_port, model):
    """The model server's contract: live, ready, the model ready, inference; and what is not there."""
    url = f"http://127.0.0.1:{http_port}"
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    assert await rest.is_server_live(url)
    assert await rest.is_server_ready(url)
    assert await rest.is_model_ready(url, model)
    for binary in (False, True):
        check_answer(await rest.infer(url, asked(model, binary=binary), model_name=model))
        print("rest", "binary" if binary else "json")
    refused = ""
    try:
        await rest.infer(url, asked("nope", binary=False), model_name="nope")
    except HTTPStatusError as problem:
        refused = str(problem)
    assert "nope" in refused, refused
    await rest.close()
    grpc = InferenceGRPCClient(f"127.0.0.1:{grpc_port}")
    assert await grpc.is_server_live()
    assert await grpc.is_server_ready()
    assert await grpc.is_model_ready(model)
    check_answer(await grpc.infer(asked(model, binary=True)))
    print("grpc")
    await grpc.close()


def main():
    folder, http_port, grpc_port, model = sys.argv[1:]
    check_manifests(Path(folder))
    asyncio.run(check_clients(int(http_port), int(grpc_port), model))


if __name__ == "__main__":
    main()
