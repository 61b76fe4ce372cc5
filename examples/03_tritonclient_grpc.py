"""Triton's own gRPC client against Despina: `python examples/03_tritonclient_grpc.py [HOST:PORT]`.

Needs `pip install 'tritonclient[grpc]'`.
"""

import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

with triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "localhost:8001") as client:
    print("ready:", client.is_server_ready())
    print("models:", sorted(model.name for model in client.get_model_repository_index().models))

    # One call.
    content = triton.InferInput("CONTENT", [1, 1], "BYTES")
    content.set_data_from_numpy(np.array([[Path(__file__).read_bytes()]], np.object_))
    result = client.infer("file_type", [content], request_id="this file")
    print(f"{result.get_response().id}: {result.as_numpy('LABEL')[0, 0].decode()}")

    # A stream of calls: the answers come in the order of the requests.
    answers = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(3):
        inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for tensor in inputs:
            tensor.set_data_from_numpy(np.full((1, 16), number, np.int32))
        client.async_stream_infer("addsub", inputs, request_id=str(number))
    for _ in range(3):
        result, error = answers.get(timeout=30)
        if error is not None:
            raise error
        print(f"stream answer {result.get_response().id}: {result.as_numpy('OUTPUT0')[0, 0]}")
    client.stop_stream()
