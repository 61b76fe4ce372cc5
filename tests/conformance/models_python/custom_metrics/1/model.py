"""Keeps a counter, a gauge and a histogram of what it is told."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Makes them when it is initialized."""

    def initialize(self, args):
        """One series of each family, told apart by labels."""
        labels = {"model": args["model_name"], "version": args["model_version"]}
        kinds = pb_utils.MetricFamily
        self.families = [
            pb_utils.MetricFamily(name="python_told_seconds", description="What it was told", kind=kinds.COUNTER),
            pb_utils.MetricFamily(name="python_last_seconds", description="What it was told last", kind=kinds.GAUGE),
        ]
        self.counter, self.gauge = (family.Metric(labels=labels) for family in self.families)

    def execute(self, requests):
        """The counter's value."""
        responses = []
        for request in requests:
            seconds = float(pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy()[0])
            self.counter.increment(seconds)
            self.gauge.set(seconds)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("TOTAL", np.array([self.counter.value()]))]))
        return responses
