"""Completing, normalising and validating configurations: every rule, and every refusal in the protocol's words."""

from __future__ import annotations

import copy

import pytest
from despina.schema.fault import Internal, InvalidArgument
from despina.schema.model_config import (
    ModelListing,
    accept_completion,
    check_directory_name,
    complete_names,
    config_warnings,
    normalise,
    normalise_instance_groups,
    parse_config,
    scheduling_choice,
    shape_text,
    validate,
    validate_instance_groups,
    validate_io,
)
from despina.schema.wire.generated.inference import ModelConfig, ModelInstanceGroupKind

GPU, CPU, MODEL = ModelInstanceGroupKind.GPU, ModelInstanceGroupKind.CPU, ModelInstanceGroupKind.MODEL


def listing(*files, directories=(), version="1", others=()):
    return ModelListing(
        subdirectories=(version, *others), first_files=frozenset(files), first_directories=frozenset(directories)
    )


# Names.


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        # By the files of the first version.
        ("", listing("model.graphdef"), ("tensorflow", "tensorflow_graphdef", "model.graphdef")),
        (
            "",
            listing(directories=["model.savedmodel"]),
            ("tensorflow", "tensorflow_savedmodel", "model.savedmodel"),
        ),
        (
            "",
            listing("model.graphdef", directories=["model.savedmodel"]),
            ("tensorflow", "tensorflow_graphdef", "model.graphdef"),
        ),
        ("", listing("model.plan"), ("tensorrt", "tensorrt_plan", "model.plan")),
        ("", listing("model.onnx"), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ("", listing(directories=["model.onnx"]), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ("", listing("model.xml"), ("openvino", "", "model.xml")),
        ("", listing("model.pt"), ("pytorch", "pytorch_libtorch", "")),
        ("", listing("model.pt2"), ("pytorch", "torch_aoti", "model.pt2")),
        ("", listing("model.py"), ("python", "", "model.py")),
        ("", listing("model.onnx", "model.py", "model.pt"), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        # By what the configuration says.
        ('backend: "onnxruntime"', ModelListing(), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('backend: "python"', ModelListing(), ("python", "", "model.py")),
        ('backend: "tensorrt"', ModelListing(), ("tensorrt", "tensorrt_plan", "model.plan")),
        ('backend: "openvino"', ModelListing(), ("openvino", "", "model.xml")),
        ('platform: "onnxruntime_onnx"', ModelListing(), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        (
            'platform: "tensorflow_savedmodel"',
            ModelListing(),
            ("tensorflow", "tensorflow_savedmodel", "model.savedmodel"),
        ),
        (
            'default_model_filename: "model.graphdef"',
            ModelListing(),
            ("tensorflow", "tensorflow_graphdef", "model.graphdef"),
        ),
        ('default_model_filename: "model.plan"', ModelListing(), ("tensorrt", "tensorrt_plan", "model.plan")),
        ('default_model_filename: "model.py"', listing("model.onnx"), ("python", "", "model.py")),
        ('default_model_filename: "model.pt"', ModelListing(), ("pytorch", "pytorch_libtorch", "model.pt")),
        ('default_model_filename: "model.pt2"', ModelListing(), ("pytorch", "torch_aoti", "model.pt2")),
        (
            'backend: "onnxruntime" default_model_filename: "x.onnx"',
            ModelListing(),
            ("onnxruntime", "onnxruntime_onnx", "x.onnx"),
        ),
        ('backend: "mine" platform: "x"', listing("model.onnx"), ("mine", "x", "")),
        ('backend: "mine"', listing("model.onnx"), ("mine", "", "")),
        ('platform: "x"', listing("model.onnx"), ("", "x", "")),
        ('platform: "ensemble"', listing("model.onnx"), ("", "ensemble", "")),
        ('default_model_filename: "x"', listing("model.onnx"), ("", "", "x")),
        # PyTorch's own ways.
        ('backend: "pytorch"', listing("model.pt2"), ("pytorch", "pytorch_libtorch", "model.pt")),
        ('platform: "pytorch_libtorch"', ModelListing(), ("pytorch", "pytorch_libtorch", "")),
        ('platform: "libtorch"', ModelListing(), ("pytorch", "libtorch", "")),
        ('platform: "torch_aoti"', ModelListing(), ("pytorch", "torch_aoti", "model.pt2")),
        # A graph or a plan that is a directory is none.
        ('backend: "tensorflow"', listing(directories=["model.graphdef"]), ("tensorflow", "", "")),
    ],
)
def test_backend_platform_and_file(text, found, expected):
    """Backend, platform and file follow from each other or from the files, in a fixed order of backends."""
    config = complete_names(parse_config(text), "m", found)
    assert (config.backend, config.platform, config.default_model_filename) == expected
    assert config.name == "m"


def test_custom_backend_from_the_model_name():
    """At last the text after the first dot of the model's name is the backend."""
    config = complete_names(ModelConfig(), "model.a.b", ModelListing())
    assert (config.backend, config.default_model_filename) == ("a.b", "model.a.b")


@pytest.mark.parametrize("found", [ModelListing(), listing(directories=["model.plan", "model.pt", "model.graphdef"])])
def test_no_way_to_tell_the_backend(found):
    """A name without a dot and nothing that is a model leave no backend to choose."""
    with pytest.raises(InvalidArgument) as caught:
        complete_names(ModelConfig(), "m", found)
    assert str(caught.value) == (
        "Invalid model name: Could not determine backend for model 'm' with no backend in model configuration. "
        "Expected model name of the form 'model.<backend_name>'."
    )


def test_the_first_directory_is_first_as_text():
    """Version 10 is looked at before version 2, and so is any other directory that sorts first."""
    assert ModelListing(subdirectories=("2", "10")).first == "10"
    assert ModelListing().first is None


def test_a_given_name_stays_and_must_be_the_directory():
    """The name in the file wins, and is refused when the directory is called otherwise."""
    config = complete_names(parse_config('name: "other" backend: "python"'), "m", ModelListing())
    assert config.name == "other"
    check_directory_name(config, "other")
    with pytest.raises(InvalidArgument) as caught:
        check_directory_name(config, "m")
    assert str(caught.value) == (
        "unexpected directory name 'm' for model 'other', directory name must equal model name"
    )


# Normal form.


def test_defaults_are_written_out():
    """What depends on other fields becomes visible: version policy, preferred sizes, pinned memory."""
    config = normalise(parse_config("max_batch_size: 8 dynamic_batching { }"))
    assert config.version_policy is not None
    assert config.version_policy.latest is not None
    assert config.version_policy.latest.num_versions == 1
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_size == [8]
    assert config.optimization is not None
    assert config.optimization.input_pinned_memory is not None
    assert config.optimization.input_pinned_memory.enable
    assert config.optimization.output_pinned_memory is not None
    assert config.optimization.output_pinned_memory.enable
    assert normalise(config) == config


def test_sequences_get_their_defaults():
    """A sequence may idle one second, and the oldest strategy prefers whole batches."""
    config = normalise(parse_config("max_batch_size: 4 sequence_batching { oldest { } }"))
    assert config.sequence_batching is not None
    assert config.sequence_batching.max_sequence_idle_microseconds == 1_000_000
    assert config.sequence_batching.oldest is not None
    assert config.sequence_batching.oldest.preferred_batch_size == [4]


def test_what_is_given_stays():
    """No default replaces a value, and a model without batching prefers no size."""
    text = """
        version_policy { all { } }
        optimization { input_pinned_memory { enable: false } output_pinned_memory { } }
        sequence_batching { max_sequence_idle_microseconds: 5 oldest { preferred_batch_size: 2 } }
    """
    assert normalise(parse_config(text)) == parse_config(text)
    config = normalise(parse_config("dynamic_batching { }"))
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_size == []


def test_ensembles_have_no_optimization():
    """Pinned memory is not for ensembles, whose validation refuses the message."""
    assert normalise(parse_config('platform: "ensemble" ensemble_scheduling { }')).optimization is None


@pytest.mark.parametrize(
    "change",
    [
        normalise,
        lambda config: complete_names(config, "m", listing("model.onnx")),
        lambda config: normalise_instance_groups(config, [0]),
        lambda config: accept_completion(config, config),
    ],
)
def test_arguments_are_never_changed(change):
    """The functions are pure: what they are given stays as it was, deep inside too."""
    config = parse_config("max_batch_size: 2 dynamic_batching { } instance_group { } optimization { }")
    before = copy.deepcopy(config)
    change(config)
    assert config == before


# Completion by a backend.


def test_completion_takes_what_backends_may_change():
    """Sizes, tensors, the scheduler where none was chosen and decoupling are taken over, nothing else."""
    original = parse_config('name: "m" backend: "b" metric_tags { key: "a" value: "1" }')
    completed = parse_config(
        'name: "n" backend: "c" max_batch_size: 4 input { name: "i" } output { name: "o" } dynamic_batching { }'
        ' model_transaction_policy { decoupled: true } parameters { key: "p" value { } }'
    )
    accepted = accept_completion(original, completed)
    assert accepted == normalise(
        parse_config(
            'name: "m" backend: "b" metric_tags { key: "a" value: "1" } max_batch_size: 4 input { name: "i" }'
            ' output { name: "o" } dynamic_batching { } model_transaction_policy { decoupled: true }'
        )
    )


def test_completion_keeps_the_users_scheduler():
    """The user's own settings of the same scheduler win over the backend's."""
    original = parse_config("dynamic_batching { max_queue_delay_microseconds: 7 }")
    accepted = accept_completion(original, parse_config("max_batch_size: 4 dynamic_batching { }"))
    assert accepted.dynamic_batching is not None
    assert accepted.dynamic_batching.max_queue_delay_microseconds == 7
    assert accepted.dynamic_batching.preferred_batch_size == [4]
    assert accepted.model_transaction_policy is None


@pytest.mark.parametrize(
    ("original", "completed", "number"),
    [
        ("dynamic_batching { }", "sequence_batching { }", 11),
        ("sequence_batching { }", "dynamic_batching { }", 13),
        ("sequence_batching { }", "", 13),
    ],
)
def test_completion_may_not_change_the_scheduler(original, completed, number):
    """Another scheduler than the user's, or none, is the backend's mistake."""
    with pytest.raises(Internal) as caught:
        accept_completion(parse_config(original), parse_config(completed))
    assert str(caught.value) == (f"Cannot update scheduling choice from {number} to {number} when auto-completing.")


def test_scheduling_choice_and_shape_text():
    """The small readings that other parts need."""
    assert scheduling_choice(ModelConfig()) is None
    assert scheduling_choice(parse_config("ensemble_scheduling { }")) == "ensemble_scheduling"
    assert shape_text([-1, 3, 224]) == "[-1,3,224]"
    assert shape_text([]) == "[]"


# Validation.

BASE = 'name: "m" backend: "custom" '


def refusal(check, *arguments, **keywords):
    with pytest.raises(InvalidArgument) as caught:
        check(*arguments, **keywords)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'backend: "onnxruntime" platform: "onnxruntime_onnx"',
        'backend: "pytorch" platform: "torch_aoti"',
        'backend: "openvino" platform: "anything"',
        'backend: "b" max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 8 ] priority_levels: 2'
        " default_priority_level: 2 priority_queue_policy { key: 1 value { timeout_action: DELAY } } }",
        'backend: "b" dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 }',
        'backend: "b" model_metrics { metric_control { metric_identifier { family: "f" }'
        " histogram_options { buckets: 1 } } }",
        'backend: "b" response_cache { enable: true } model_transaction_policy { }',
        'backend: "b" max_batch_size: 2 sequence_batching { oldest { preferred_batch_size: 2 } control_input [ {'
        ' name: "s" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }, { name: "c" control {'
        " kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } } ] }",
        'backend: "b" sequence_batching { direct { minimum_slot_utilization: 1 } }',
    ],
)
def test_sound_configurations_pass(text):
    """What the rules allow is allowed."""
    validate(normalise(parse_config('name: "m" ' + text)))


CONTROL = "sequence_batching { control_input { name: 's' control { kind: CONTROL_SEQUENCE_%s } } }"
PAIRS = "'int32_false_true', 'fp32_false_true' or 'bool_false_true'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "model configuration must specify 'name'"),
        ('name: "m" platform: "p"', "unexpected platform type 'p' for m"),
        (
            'name: "m" platform: "ensemble" backend: "b"',
            "Ensemble model 'm' must have platform type 'ensemble' and empty backend type",
        ),
        (
            'name: "m" backend: "onnxruntime" platform: "p"',
            "unexpected 'platform' and 'backend' pair, got:p, onnxruntime",
        ),
        (BASE + "max_batch_size: -1", "'max_batch_size' must be non-negative value for m"),
        (
            BASE + "max_batch_size: 4 dynamic_batching { preferred_batch_size: 0 }",
            "dynamic batching preferred size must be positive for m",
        ),
        (
            BASE + "max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }",
            "dynamic batching preferred size must be <= max batch size for m",
        ),
        (
            BASE + "dynamic_batching { priority_levels: 2 }",
            "default priority level must be in range [1, 2] for m",
        ),
        (
            BASE + "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "default priority level must be in range [1, 2] for m",
        ),
        (
            BASE + "dynamic_batching { priority_levels: 2 default_priority_level: 1"
            " priority_queue_policy { key: 3 value { } } }",
            "priority queue policy must have priority level in range [1, 2] for m",
        ),
        (
            BASE + "dynamic_batching { priority_levels: 2 default_priority_level: 1 preserve_ordering: true }",
            "Only one priority level is allowed when 'preserve_ordering' is true for m",
        ),
        (
            BASE + "dynamic_batching { preserve_ordering: true"
            " default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 } }",
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
        (
            BASE + "dynamic_batching { preserve_ordering: true priority_queue_policy {"
            " key: 1 value { timeout_action: DELAY default_timeout_microseconds: 1 } } }",
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
        (
            BASE + "sequence_batching { } response_cache { enable: true }",
            "Response Cache does not currently support model m with sequence batching scheduler. "
            "Please disable the response cache.",
        ),
        (
            BASE + "sequence_batching { control_input { } }",
            "sequence batching control tensor must have a name for m",
        ),
        (
            BASE + "sequence_batching { control_input [ { name: 'a' }, { name: 'a' } ] }",
            "sequence batching control tensor 'a' is specified for multiple control kinds for m",
        ),
        (
            BASE + "sequence_batching { control_input [ { name: 'a' control { int32_false_true: [ 0, 1 ] } },"
            " { name: 'b' control { bool_false_true: [ 0, 1 ] } } ] }",
            "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for m",
        ),
        (
            BASE + CONTROL % "END",
            f"sequence batching must specify either {PAIRS} for CONTROL_SEQUENCE_END for m",
        ),
        (
            BASE + CONTROL % "READY int32_false_true: [ 0, 1 ] bool_false_true: [ 0, 1 ]",
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
            "'bool_false_true' for CONTROL_SEQUENCE_READY for m",
        ),
        (
            BASE + CONTROL % "START fp32_false_true: 0",
            "sequence batching control 'fp32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_START for m",
        ),
        (
            BASE + CONTROL % "CORRID int32_false_true: [ 0, 1 ] data_type: TYPE_INT32",
            f"sequence batching must not specify either {PAIRS} for CONTROL_SEQUENCE_CORRID for m",
        ),
        (
            BASE + "sequence_batching { direct { minimum_slot_utilization: 2 } control_input [ { name: 's' control [ "
            "{ kind: CONTROL_SEQUENCE_END }, { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 "
            "bool_false_true: [ 0, 1 ] } ] } ] } model_metrics { metric_control [ { }, { metric_identifier { } } ] }",
            f"sequence batching must specify either {PAIRS} for CONTROL_SEQUENCE_END for m; sequence batching must "
            f"not specify either {PAIRS} for CONTROL_SEQUENCE_CORRID for m; unexpected data type for control "
            "CONTROL_SEQUENCE_CORRID for m. Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 "
            "and TYPE_STRING; sequence batching minimum slot utilization must be in range (0.0, 1.0] for m; "
            "metric control must specify 'metric_identifier'; metric control must specify 'histogram_options'; "
            "metric identifier must specify non-empty 'family'",
        ),
        (
            BASE + CONTROL % "CORRID data_type: TYPE_FP32",
            "unexpected data type for control CONTROL_SEQUENCE_CORRID for m. Allowed data types are TYPE_UINT64, "
            "TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING",
        ),
        (
            BASE + "max_batch_size: 2 sequence_batching { oldest { preferred_batch_size: -1 } }",
            "sequence batching preferred batch size must be positive for m",
        ),
        (
            BASE + "max_batch_size: 2 sequence_batching { oldest { preferred_batch_size: 3 } }",
            "sequence batching preferred batch size must be <= max batch size for m",
        ),
        (
            BASE + "sequence_batching { direct { minimum_slot_utilization: 1.5 } }",
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for m",
        ),
        (
            BASE + "sequence_batching { direct { minimum_slot_utilization: nan } }",
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for m",
        ),
        (
            'name: "m" platform: "ensemble"',
            "ensemble scheduling must be set for ensemble m whose platform is ensemble",
        ),
        (
            BASE + "model_transaction_policy { decoupled: true } response_cache { enable: true }",
            "Response Cache does not currently support model m with 'decoupled' transaction policy. "
            "Please disable the response cache.",
        ),
        (
            BASE + "model_metrics { metric_control { } }",
            "metric control must specify 'metric_identifier'; metric control must specify 'histogram_options'",
        ),
        (
            BASE + "model_metrics { metric_control { metric_identifier { } } }",
            "metric identifier must specify non-empty 'family'; metric control must specify 'histogram_options'",
        ),
        (
            BASE + "model_metrics { metric_control { metric_identifier { family: 'f' } } }",
            "metric control must specify 'histogram_options'",
        ),
        (
            BASE + "model_metrics { metric_control { metric_identifier { family: 'f' } histogram_options { } } }",
            "histogram options must specify non-empty 'buckets'",
        ),
    ],
)
def test_refusals(text, expected):
    """Each rule of validation, with the text that the protocol gives it."""
    assert refusal(validate, normalise(parse_config(text))) == expected


def test_version_policy_is_required():
    """Only a configuration that was not normalised lacks it."""
    assert refusal(validate, parse_config(BASE)) == "must specify 'version policy' for m"


def test_warnings():
    """What is ignored is said, and does not stop the model."""
    config = parse_config(
        "sequence_batching { } parameters { key: 'TRITON_BATCH_STRATEGY_PATH' value { } }"
        " model_metrics { metric_control [ { metric_identifier { family: 'f' } },"
        " { metric_identifier { family: 'nv_inference_first_response_histogram_ms' } }, { } ] }"
    )
    assert list(config_warnings(config)) == [
        "TRITON_BATCH_STRATEGY_PATH cannot be specified with sequence batcher, using default batching strategy",
        "Metric family 'f' in 'metric_identifier' is not a customizable metric in Triton core.",
        "Metric family '' in 'metric_identifier' is not a customizable metric in Triton core.",
    ]
    assert list(config_warnings(ModelConfig())) == []


# Ensembles.


def ensemble(steps, *, inputs=("A",), outputs=("Z",), rest=""):
    """`steps` are pairs of input and output tensors, all of them of model `x`."""
    step_texts = [
        "{ model_name: 'x' "
        + " ".join(f"input_map {{ key: 'i{n}' value: '{name}' }}" for n, name in enumerate(reads))
        + " ".join(f" output_map {{ key: 'o{n}' value: '{name}' }}" for n, name in enumerate(writes))
        + " }"
        for reads, writes in steps
    ]
    tensors = "".join(f" input {{ name: '{name}' }}" for name in inputs)
    tensors += "".join(f" output {{ name: '{name}' }}" for name in outputs)
    scheduling = f" ensemble_scheduling {{ step [ {', '.join(step_texts)} ] }}"
    return normalise(parse_config(f"name: 'e' platform: 'ensemble' {tensors} {scheduling} {rest}"))


@pytest.mark.parametrize(
    "config",
    [
        ensemble([("A", "Z")]),
        ensemble([("B", "Z"), ("A", "B")]),
        ensemble([("A", "BC"), ("B", "D"), ("CD", "Z")]),
        ensemble([("A", "YZ")], outputs="YZ"),
    ],
)
def test_sound_ensembles_pass(config):
    """Chains, forks and joins, in any order of the steps."""
    validate(config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            normalise(parse_config(BASE + "ensemble_scheduling { }")),
            "ensemble scheduling cannot be set for model 'm' whose platform is not ensemble",
        ),
        (
            ensemble([("A", "Z")], rest="instance_group { }"),
            "instance group should not be specified for ensemble 'e'",
        ),
        (ensemble([("A", "Z")], rest="optimization { }"), "optimization should not be specified for ensemble 'e'"),
        (ensemble([("A", "Z")], rest="model_warmup { }"), "model_warmup can not be specified for ensemble 'e'"),
        (ensemble([]), "must specify 'step' for ensemble 'e'"),
        (ensemble([("", "Z")]), "must specify 'input_map' in step 0 of ensemble 'e'"),
        (ensemble([("A", "Z"), ("A", "")]), "must specify 'output_map' in step 1 of ensemble 'e'"),
        (
            normalise(parse_config("name: 'e' platform: 'ensemble' ensemble_scheduling { step { } }")),
            "must specify 'model_name' in step 0 of ensemble 'e'; must specify 'input_map' in step 0 of ensemble 'e'; "
            "must specify 'output_map' in step 0 of ensemble 'e'",
        ),
        (
            ensemble([("A", "Z"), ("A", "Z")]),
            "ensemble tensor 'Z' can appear in an output map only once for ensemble 'e' step 1",
        ),
        (ensemble([("A", "Z")], inputs="AB"), "ensemble input 'B' for ensemble e' is not used"),
        (ensemble([("A", "Z")], outputs="ZY"), "ensemble output 'Y' for ensemble e' is not used"),
        (
            ensemble([("AB", "Z")]),
            "output 'Z' for ensemble 'e' is not written: at least one of its depending tensors, 'B', is not connected",
        ),
        (
            ensemble([("AC", "Z"), ("D", "C")]),
            "output 'Z' for ensemble 'e' is not written: at least one of its depending tensors, 'D', is not connected",
        ),
        (
            ensemble([("AB", "Z"), ("C", "B"), ("B", "C")]),
            "output 'Z' for ensemble 'e' is not written: at least one of its depending tensors, 'C', is not connected",
        ),
        (
            ensemble([("A", "Z"), ("Z", "Y"), ("Y", "Z")]),
            "ensemble tensor 'Z' can appear in an output map only once for ensemble 'e' step 2",
        ),
        (
            ensemble([("A", "B"), ("Z", "Y"), ("Y", "X")], outputs="Z"),
            "output 'Z' for ensemble 'e' is not written; ensemble tensor 'B' is unused in ensemble 'e'; "
            "ensemble tensor 'X' is unused in ensemble 'e'",
        ),
        (
            ensemble([("A", "Z"), ("B", "C"), ("C", "B")]),
            "ensemble tensor 'C' is unused in ensemble 'e'; ensemble tensor 'B' is unused in ensemble 'e'",
        ),
        (
            ensemble([("A", ""), ("", "Z")], rest="instance_group { } optimization { } model_warmup { }"),
            "instance group should not be specified for ensemble 'e'; optimization should not be specified for "
            "ensemble 'e'; model_warmup can not be specified for ensemble 'e'; must specify 'output_map' in step 0 of "
            "ensemble 'e'; must specify 'input_map' in step 1 of ensemble 'e'",
        ),
        (
            ensemble([("A", "Z"), ("A", "C")], inputs="AB", outputs="ZY"),
            "ensemble input 'B' for ensemble e' is not used; ensemble output 'Y' for ensemble e' is not used; "
            "ensemble tensor 'C' is unused in ensemble 'e'",
        ),
        (ensemble([("A", "ZB")]), "ensemble tensor 'B' is unused in ensemble 'e'"),
        (ensemble([("A", "Z"), ("C", "B")]), "ensemble tensor 'B' is unused in ensemble 'e'"),
    ],
)
def test_ensemble_refusals(config, expected):
    """Each rule about the steps and the tensors between them."""
    assert refusal(validate, config) == expected


# Inputs and outputs.


@pytest.mark.parametrize(
    "text",
    [
        "dims: [ -1, 3 ]",
        "dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] }",
        "dims: [ 3, 4 ] reshape { shape: 12 }",
        "dims: [ 1 ] reshape { }",
        "dims: [ -1, -1 ] reshape { shape: [ -1, 1, -1 ] }",
        "dims: [ 3, 4, 5 ] format: FORMAT_NHWC",
        "dims: 1 optional: true allow_ragged_batch: true",
    ],
)
def test_sound_inputs_pass(text):
    """What the rules on tensors allow."""
    validate_io(parse_config(BASE + f"max_batch_size: 1 input {{ name: 'i' data_type: TYPE_FP32 {text} }}"))


NAMED = "name: 'i' data_type: TYPE_FP32 "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input { }", "model input must specify 'name' for m"),
        ("output { }", "model output must specify 'name' for m"),
        ("input { name: 'i' dims: 1 }", "model input 'i' must specify 'data_type' for m"),
        (
            "input { name: 'i' data_type: 99 dims: 1 }",
            "model input 'i' has 'data_type' 99, the number of no datatype, for m",
        ),
        ("output { name: 'o' data_type: TYPE_FP32 }", "model output 'o' must specify 'dims' for m"),
        (
            f"input {{ {NAMED} dims: 1 reshape {{ }} }}",
            "model input 'i' cannot have empty reshape for non-batching model as scalar tensors are not supported"
            " for m",
        ),
        (
            f"input {{ {NAMED} dims: 0 }}",
            "model input 'i' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m",
        ),
        (
            f"input {{ {NAMED} dims: -2 }}",
            "model input 'i' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m",
        ),
        (
            f"input {{ {NAMED} dims: 1 reshape {{ shape: 0 }} }}",
            "model input 'i' reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"
            " for m",
        ),
        (
            f"input {{ {NAMED} dims: 2 reshape {{ shape: 3 }} }}",
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            f"max_batch_size: 1 input {{ {NAMED} dims: 2 reshape {{ }} }}",
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            f"max_batch_size: 1 input {{ {NAMED} dims: -1 reshape {{ }} }}",
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            f"input {{ {NAMED} dims: 1 reshape {{ shape: -1 }} }}",
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            f"input {{ {NAMED} dims: [ -1, -1 ] reshape {{ shape: -1 }} }}",
            "model input 'i' has different number of variable-size dimensions for dims and reshape for m",
        ),
        (
            f"input {{ {NAMED} dims: [ 2, -1, 3 ] reshape {{ shape: [ 3, -1, 2 ] }} }}",
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            f"input {{ {NAMED} dims: [ 9223372036854775807, 2 ] reshape {{ shape: [ 9223372036854775807, 2 ] }} }}",
            "model input 'i' has more elements than a 64-bit number counts for m",
        ),
        (f"input {{ {NAMED} dims: 1 format: FORMAT_NCHW }}", "model input NHWC/NCHW require 3 dims for m"),
        (
            f"input {{ {NAMED} dims: 1 is_shape_tensor: true }}",
            "shape tensors are only supported for TensorRT platform for m",
        ),
        (
            f"output {{ {NAMED} dims: 1 is_shape_tensor: true }}",
            "shape tensors are only supported for TensorRT platform for m",
        ),
        (
            f"input {{ {NAMED} dims: 1 is_non_linear_format_io: true }}",
            "Non-linear IO format is only supported for the TensorRT platform for m",
        ),
        (
            f"platform: 'tensorrt_plan' output {{ {NAMED} dims: 1 is_non_linear_format_io: true }}",
            "Non-linear IO format output requires 3 dims for m",
        ),
        ("batch_input { }", "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 0 for m"),
        ("batch_input { kind: 99 source_input: 'i' }", "unknown batch input kind '' for m"),
        ("batch_input { source_input: 'i' }", "batch input data type must be TYPE_INT32 or TYPE_FP32 for m"),
        (
            "batch_input { source_input: 'i' data_type: TYPE_INT32 }",
            "unknown source input name 'i' for m",
        ),
        (
            "batch_output { source_input: ['i', 'j'] }",
            "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE' expects 1 source input, got 2 for m",
        ),
        ("batch_output { kind: 5 }", "unknown batch output kind '' for m"),
        (
            f"input {{ {NAMED} dims: 1 }} batch_output {{ source_input: 'i' target_name: 'o' }}",
            "unknown target output name 'o' for m",
        ),
        (
            f"input {{ {NAMED} dims: 1 }} output {{ {NAMED} dims: 1 }}"
            " batch_output { source_input: 'i' target_name: ['i', 'i'] }",
            "target output name 'i' can only be specified once for m",
        ),
    ],
)
def test_io_refusals(text, expected):
    """Each rule about tensors, with the text that the protocol gives it."""
    assert refusal(validate_io, parse_config(BASE + text)) == expected


# Instance groups.


def groups(text, gpus=(), preferred=None, backend="custom"):
    config = normalise_instance_groups(parse_config(f"name: 'm' backend: '{backend}' {text}"), gpus, preferred)
    return [(group.name, group.kind, group.count, group.gpus) for group in config.instance_group]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("",), [("m", CPU, 1, [])]),
        (("", [1, 0]), [("m", GPU, 1, [0, 1])]),
        (("", [0], CPU), [("m", CPU, 1, [])]),
        (("", [], GPU), [("m", CPU, 1, [])]),
        (("", [], MODEL), [("m", MODEL, 1, [])]),
        (("", [], None, "onnxruntime"), [("m", CPU, 2, [])]),
        (("", [0], None, "onnxruntime"), [("m", GPU, 1, [0])]),
        (("instance_group { kind: KIND_MODEL }", [], None, "onnxruntime"), [("m_0", MODEL, 1, [])]),
        (("instance_group { kind: KIND_CPU count: 3 }", [], None, "onnxruntime"), [("m_0", CPU, 3, [])]),
        (
            ("instance_group [ { }, { name: 'g' }, { } ]",),
            [("m_0", CPU, 1, []), ("g", CPU, 1, []), ("m_2", CPU, 1, [])],
        ),
        (("instance_group { gpus: [ 0 ] }", [0, 1]), [("m_0", GPU, 1, [0])]),
        (("instance_group { gpus: [ 0, 7 ] }", [0, 1]), [("m_0", CPU, 1, [0, 7])]),
        (("instance_group { kind: KIND_GPU count: 2 }", [0, 1]), [("m_0", GPU, 2, [0, 1])]),
        (("instance_group { kind: KIND_GPU }", []), [("m_0", GPU, 1, [])]),
    ],
)
def test_groups_are_written_out(arguments, expected):
    """Names, kinds, counts and GPUs by the rules of the protocol."""
    assert groups(*arguments) == expected


def test_ensembles_have_no_groups():
    """Neither filled in nor asked for."""
    config = normalise_instance_groups(parse_config("ensemble_scheduling { }"), [0])
    assert config.instance_group == []
    validate_instance_groups(config, [0], 6.0)


@pytest.mark.parametrize(
    "text",
    [
        "instance_group { kind: KIND_GPU gpus: [ 0, 1 ] }",
        "instance_group [ { kind: KIND_CPU }, { kind: KIND_MODEL } ]",
        "platform: 'tensorrt_plan' instance_group { kind: KIND_CPU profile: [ '0', ' +3x' ] }",
    ],
)
def test_sound_groups_pass(text):
    """What can be had."""
    validate_instance_groups(parse_config(text), [0, 1], 6.0)


@pytest.mark.parametrize(
    ("text", "gpus", "expected"),
    [
        ("", [], "must specify one or more 'instance group's for m"),
        (
            "instance_group { name: 'g' kind: KIND_MODEL gpus: 0 }",
            [0],
            "instance group g of model m has kind KIND_MODEL but specifies one or more GPUs",
        ),
        (
            "instance_group { name: 'g' kind: KIND_CPU gpus: 0 }",
            [0],
            "instance group g of model m has kind KIND_CPU but specifies one or more GPUs",
        ),
        (
            "instance_group { name: 'g' kind: KIND_GPU }",
            [],
            "instance group g of model m has kind KIND_GPU but no GPUs are available",
        ),
        (
            "instance_group { name: 'g' kind: KIND_GPU }",
            [0],
            "instance group g of model m has kind KIND_GPU but specifies no GPUs",
        ),
        (
            "instance_group { name: 'g' kind: KIND_GPU gpus: [ 1, 7 ] }",
            [1, 0],
            "instance group g of model m specifies invalid or unsupported gpu id 7. GPUs with at least the minimum "
            "required CUDA compute compatibility of 6.000000 are: 0, 1",
        ),
        (
            "platform: 'p' instance_group { name: 'g' kind: KIND_CPU profile: '0' }",
            [],
            "instance group g of model m and platform pspecifies profile field which is only supported for "
            "TensorRT models",
        ),
        (
            "platform: 'tensorrt_plan' instance_group { name: 'g' kind: KIND_CPU profile: 'x' }",
            [],
            "unable to parse 'x': stoi",
        ),
        (
            "platform: 'tensorrt_plan' instance_group { name: 'g' kind: KIND_CPU profile: '99999999999' }",
            [],
            "unable to parse '99999999999': stoi",
        ),
        (
            "platform: 'tensorrt_plan' instance_group { name: 'g' kind: KIND_CPU profile: '' }",
            [],
            "profile name must not be empty",
        ),
        (
            "platform: 'tensorrt_plan' instance_group { name: 'g' kind: KIND_CPU profile: '-1' }",
            [],
            "instance group g of model m and platform tensorrt_plan specifies invalid profile -1. The field should "
            "contain the string representation of a non-negative integer.",
        ),
    ],
)
def test_group_refusals(text, gpus, expected):
    """Each rule about groups, with the text that the protocol gives it."""
    assert refusal(validate_instance_groups, parse_config("name: 'm' " + text), gpus, 6.0) == expected


def test_groups_without_gpu_support_or_kind():
    """A server that cannot use GPUs at all, and a group that was not normalised."""
    config = parse_config("name: 'm' instance_group { name: 'g' kind: KIND_GPU gpus: 0 }")
    assert refusal(validate_instance_groups, config, [0], 6.0, gpu_support=False) == (
        "instance group g of model m has kind KIND_GPU but server does not support GPUs"
    )
    with pytest.raises(Internal, match="instance group g of model m has unexpected kind KIND_AUTO"):
        validate_instance_groups(parse_config("name: 'm' instance_group { name: 'g' }"), [], 6.0)
