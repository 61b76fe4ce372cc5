"""Triton's own HTTP client against Despina: `python examples/02_tritonclient_http.py [HOST:PORT]`.

Needs `pip install 'tritonclient[http]'`.
"""

import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

with triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as client:
    print("ready:", client.is_server_ready())
    print("magika takes:", client.get_model_metadata("magika")["inputs"])

    left = np.arange(16, dtype=np.int32).reshape(1, 16)
    right = np.ones((1, 16), np.int32)
    inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    inputs[0].set_data_from_numpy(left)
    inputs[1].set_data_from_numpy(right)
    result = client.infer("addsub", inputs)
    print("sum:", result.as_numpy("OUTPUT0")[0])
    print("difference:", result.as_numpy("OUTPUT1")[0])

    contents = [Path(__file__).read_bytes(), b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"]
    content = triton.InferInput("CONTENT", [len(contents), 1], "BYTES")
    content.set_data_from_numpy(np.array([[one] for one in contents], np.object_))
    result = client.infer("file_type", [content])
    for label, score in zip(result.as_numpy("LABEL").ravel(), result.as_numpy("SCORE").ravel(), strict=True):
        print(f"file type: {label.decode()} ({score:.3f})")
