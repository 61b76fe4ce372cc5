"""TensorFlow models of every kind of file, made by TensorFlow. It is imported where it is used: that takes seconds."""

from __future__ import annotations

import numpy as np


def trained(folder):
    """A SavedModel of TensorFlow 2 that has learnt y = 2a - 3b + 1, with two signatures: the number, and its sign in
    words."""
    import tensorflow as tf

    class Line(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(tf.zeros([2, 1]), name="weights")
            self.bias = tf.Variable(0.0, name="bias")

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def number(self, x):
            return {"y": x @ self.weights + self.bias}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def word(self, x):
            return {"word": tf.where(self.number(x)["y"][:, 0] > 0, "above", "below")}

    rng = np.random.default_rng(3)
    x = rng.standard_normal((256, 2)).astype(np.float32)
    wanted = x @ np.array([[2.0], [-3.0]], np.float32) + 1
    line = Line()
    for _ in range(60):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((line.number(x)["y"] - wanted) ** 2)
        for variable, gradient in zip(
            line.trainable_variables, tape.gradient(loss, line.trainable_variables), strict=True
        ):
            variable.assign_sub(0.2 * gradient)
    tf.saved_model.save(line, str(folder), {"serving_default": line.number, "word": line.word})


def in_session(build):
    """What `build(tf.compat.v1)` returns, made in a graph of TensorFlow 1, and its session."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        made = build(tf.compat.v1)
        session = tf.compat.v1.Session(graph=graph)
    return made, session


def saved_by_version_1(folder, build, tags=(("serve",),)):
    """A SavedModel of TensorFlow 1: `build` gives signature name -> (inputs, outputs). Each of `tags` has a graph."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def infos(tensors):
        described = v1.saved_model.build_tensor_info
        return {name: item if hasattr(item, "WhichOneof") else described(item) for name, item in tensors.items()}

    builder = v1.saved_model.Builder(str(folder))
    signatures, session = in_session(build)
    with session, session.graph.as_default():
        session.run(v1.global_variables_initializer())
        definitions = {
            name: v1.saved_model.build_signature_def(infos(inputs), infos(outputs))
            for name, (inputs, outputs) in signatures.items()
        }
        builder.add_meta_graph_and_variables(session, list(tags[0]), definitions)
        for more in tags[1:]:
            builder.add_meta_graph(list(more), definitions)
        builder.save()


def graph(file, build, frozen=()):
    """A GraphDef of what `build` makes. With `frozen`, names of nodes, variables become constants."""
    import tensorflow as tf

    _, session = in_session(build)
    with session, session.graph.as_default():
        definition = session.graph.as_graph_def()
        if frozen:
            session.run(tf.compat.v1.global_variables_initializer())
            definition = tf.compat.v1.graph_util.convert_variables_to_constants(session, definition, list(frozen))
    file.write_bytes(definition.SerializeToString())
