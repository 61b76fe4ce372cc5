"""Trees and classics, trained here by the libraries themselves: each answers as its library does; faults by name."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import despina
import joblib
import lightgbm
import numpy as np
import pytest
import skops.io
import treelite
import trio
import tritonclient.grpc
import tritonclient.http
import xgboost
from despina.backends.trees import FilBackend, TreesBackend
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, Unavailable, Unsupported
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelOutput,
    ModelParameter,
    ModelSequenceBatching,
)
from sklearn.ensemble import GradientBoostingClassifier, IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tests.doors import both_doors

FEATURES = 6
FP32 = DataType.TYPE_FP32
_random = np.random.default_rng(7)
ROWS = _random.random((300, FEATURES), dtype=np.float32)
VALUES = ROWS[:, 0] * 3 - ROWS[:, 1] ** 2
BINARY = (VALUES > 1).astype(int)
THREE = np.digitize(VALUES, [0.5, 1.5])
ASKED = _random.random((7, FEATURES), dtype=np.float32)
TARGETS = {"regression": VALUES, "binary": BINARY, "three": THREE}


@functools.cache
def trained(library, task):
    """A model of the library's own interface for scikit-learn, which is what users compare with."""
    classes = {
        ("xgboost", "regression"): functools.partial(xgboost.XGBRegressor, n_estimators=8, max_depth=3, n_jobs=1),
        ("xgboost", "classes"): functools.partial(xgboost.XGBClassifier, n_estimators=8, max_depth=3, n_jobs=1),
        ("lightgbm", "regression"): functools.partial(lightgbm.LGBMRegressor, n_estimators=8, verbose=-1, n_jobs=1),
        ("lightgbm", "classes"): functools.partial(lightgbm.LGBMClassifier, n_estimators=8, verbose=-1, n_jobs=1),
        ("sklearn", "regression"): functools.partial(RandomForestRegressor, 8, random_state=1),
        ("sklearn", "classes"): functools.partial(RandomForestClassifier, 8, random_state=1),
    }
    kind = "regression" if task == "regression" else "classes"
    return classes[library, kind]().fit(ROWS, TARGETS[task])


FORMATS = {
    "xgboost.json": ("xgboost", lambda model, path: model.save_model(path)),
    "xgboost.ubj": ("xgboost", lambda model, path: model.save_model(path)),
    "xgboost.model": ("xgboost", lambda model, path: path.write_bytes(model.get_booster().save_raw("ubj"))),
    "model.txt": ("lightgbm", lambda model, path: model.booster_.save_model(path)),
    "checkpoint.tl": ("sklearn", lambda model, path: treelite.sklearn.import_model(model).serialize(path)),
    "model.skops": ("sklearn", lambda model, path: skops.io.dump(model, path)),
    "model.joblib": ("sklearn", joblib.dump),
    "model.pkl": ("sklearn", joblib.dump),
}
TYPES = {
    "xgboost.json": "xgboost_json",
    "xgboost.ubj": "xgboost_ubj",
    "xgboost.model": "xgboost",
    "model.txt": "lightgbm",
    "checkpoint.tl": "treelite_checkpoint",
    "model.skops": "scikit-learn",
    "model.joblib": "scikit-learn",
    "model.pkl": "scikit-learn",
}
PICKLES = ("model.joblib", "model.pkl")
TRUSTED = "sklearn.tree._tree.Tree"


def written(folder, file, task="binary"):
    """The file, with the model whose answers are expected of it."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    library, write = FORMATS[file]
    write(trained(library, task), folder / "1" / file)
    return trained(library, task)


def config(columns=None, dims=FEATURES, kind=FP32, backend="trees", **fields):
    """Without `columns` nothing of inputs and outputs."""
    given = {"trusted_types": TRUSTED} | fields.pop("parameters", {})
    parameters = {name: ModelParameter(string_value=text) for name, text in given.items()}
    if columns is not None:
        fields.setdefault("input", [ModelInput(name="input__0", data_type=FP32, dims=[dims])])
        fields.setdefault("output", [ModelOutput(name="output__0", data_type=kind, dims=[columns])])
        fields.setdefault("max_batch_size", 16)
    return ModelConfig(name="m", backend=backend, parameters=parameters, **fields)


def opened(bench, given, **context):
    return TreesBackend().open_model(bench.context(given, **context))


def answered(bench, given, rows=ASKED, output="output__0", **context):
    """The answers to two requests of one batch, below one another."""
    instance = opened(bench, given, **context).open_instance(bench.instance())
    jobs = [bench.job({"input__0": rows[:3]}), bench.job({"input__0": rows[3:]})]
    instance.execute(bench.batch(*jobs))
    return np.concatenate([bench.outputs(job)[output] for job in jobs])


def refused(bench, given, fault=InvalidArgument, **context):
    with pytest.raises(fault) as caught:
        opened(bench, given, **context).open_instance(bench.instance())
    return caught.value.message


# Answers


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("file", FORMATS)
def test_answers_are_the_librarys_own(bench, file, task):
    """Goal: values, classes and probabilities of every kind of file, found by its name, as the library gives them."""
    model = written(bench.path, file, task)
    if task == "regression":
        np.testing.assert_allclose(answered(bench, config(1))[:, 0], model.predict(ASKED), rtol=1e-5)
        return
    np.testing.assert_array_equal(answered(bench, config(1))[:, 0], model.predict(ASKED))
    expected = model.predict_proba(ASKED)
    found = answered(bench, config(expected.shape[1], parameters={"predict_proba": "true"}))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", FORMATS)
def test_one_column_may_stand_for_two_classes(bench, file):
    """Goal: dims [1] give the second class's probability, as later versions of FIL say it."""
    model = written(bench.path, file)
    found = answered(bench, config(1, parameters={"predict_proba": "true"}))
    np.testing.assert_allclose(found[:, 0], model.predict_proba(ASKED)[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", FORMATS)
def test_the_threshold_decides_between_two_classes(bench, file):
    """Goal: the second class is what is above the threshold, wherever that is."""
    model = written(bench.path, file)
    for threshold in (0.2, 0.5, 0.8):
        found = answered(bench, config(1, parameters={"threshold": str(threshold), "output_class": "true"}))
        np.testing.assert_array_equal(found[:, 0], model.predict_proba(ASKED)[:, 1] > threshold)


def test_output_class_false_gives_scores(bench):
    """Goal: FIL's configurations with `output_class` false get what the trees say."""
    model = written(bench.path, "xgboost.json")
    found = answered(bench, config(1, parameters={"output_class": "false"}))
    np.testing.assert_allclose(found[:, 0], model.predict_proba(ASKED)[:, 1], rtol=1e-6)


def test_classes_from_a_model_that_was_trained_to_answer_only_classes(bench):
    """Goal: multi:softmax has probabilities, too."""
    booster = xgboost.train(
        {"objective": "multi:softmax", "num_class": 3, "nthread": 1}, xgboost.DMatrix(ROWS, label=THREE), 5
    )
    (bench.path / "1").mkdir(parents=True)
    booster.save_model(bench.path / "1" / "xgboost.json")
    expected = booster.predict(xgboost.DMatrix(ASKED))
    np.testing.assert_array_equal(answered(bench, config(1))[:, 0], expected)
    found = answered(bench, config(3, parameters={"predict_proba": "true"}))
    np.testing.assert_array_equal(found.argmax(axis=1), expected)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_linear_boosters_and_several_targets(bench):
    """Goal: XGBoost's other forms answer as XGBoost does."""
    (bench.path / "1").mkdir(parents=True)
    matrix = xgboost.DMatrix(ROWS, label=VALUES)
    booster = xgboost.train({"booster": "gblinear", "nthread": 1}, matrix, 5)
    booster.save_model(bench.path / "1" / "xgboost.json")
    np.testing.assert_allclose(answered(bench, config(1))[:, 0], booster.predict(xgboost.DMatrix(ASKED)), rtol=1e-6)
    model = xgboost.XGBRegressor(n_estimators=4, n_jobs=1).fit(ROWS, np.stack([VALUES, -VALUES], 1))
    model.save_model(bench.path / "1" / "xgboost.json")
    np.testing.assert_allclose(answered(bench, config(2)), model.predict(ASKED), rtol=1e-6)


def test_missing_values_and_categories(bench):
    """Goal: NaN is missing, and codes of categories are codes, as when training."""
    rows = ROWS.copy()
    rows[:, 1] = np.floor(rows[:, 1] * 4)
    rows[::3, 2] = np.nan
    model = xgboost.XGBRegressor(n_estimators=8, n_jobs=1, feature_types=["q", "c", "q", "q", "q", "q"])
    model.fit(rows, VALUES)
    (bench.path / "1").mkdir(parents=True)
    model.save_model(bench.path / "1" / "xgboost.ubj")
    np.testing.assert_allclose(answered(bench, config(1), rows[:7])[:, 0], model.predict(rows[:7]), rtol=1e-6)


@pytest.mark.parametrize("file", ["xgboost.json", "model.txt"])
@pytest.mark.parametrize("task", ["regression", "three"])
def test_contributions(bench, file, task):
    """Goal: treeshap_output adds up to the margin, for each class."""
    model = written(bench.path, file, task)
    shape = [FEATURES + 1] if task == "regression" else [3, FEATURES + 1]
    given = config(1)
    given.output.append(ModelOutput(name="treeshap_output", data_type=FP32, dims=shape))
    found = answered(bench, given, output="treeshap_output")
    margin = {"output_margin": True} if file == "xgboost.json" else {"raw_score": True}
    assert found.shape == (7, *shape)
    np.testing.assert_allclose(found.sum(axis=-1), model.predict(ASKED, **margin), rtol=1e-4, atol=1e-5)


ESTIMATORS = {
    "pipeline": lambda: make_pipeline(StandardScaler(), LinearRegression()).fit(ROWS, VALUES),
    "neighbours": lambda: KNeighborsClassifier(3, n_jobs=2).fit(ROWS, THREE),
    "outliers": lambda: IsolationForest(n_estimators=8, random_state=1).fit(ROWS),
    "boosted": lambda: GradientBoostingClassifier(n_estimators=4, random_state=1).fit(ROWS, BINARY),
    "no probabilities": lambda: LinearSVC(random_state=1).fit(ROWS, BINARY),
    "two values": lambda: LinearRegression().fit(ROWS, np.stack([VALUES, -VALUES], 1)),
    "other labels": lambda: RandomForestClassifier(4, random_state=1).fit(ROWS, BINARY * 10 - 5),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_of_scikit_learn(bench, name):
    """Goal: what has a `predict` is served, with its own labels."""
    estimator = ESTIMATORS[name]()
    (bench.path / "1").mkdir(parents=True)
    joblib.dump(estimator, bench.path / "1" / "model.joblib")
    expected = estimator.predict(ASKED)
    columns = 1 if expected.ndim == 1 else expected.shape[1]
    np.testing.assert_allclose(answered(bench, config(columns)).reshape(expected.shape), expected, rtol=1e-5)


def test_labels_that_are_words(bench):
    """Goal: they are strings in an output of strings, and indexes in one of numbers."""
    words = np.array(["cat", "dog", "eel"])
    estimator = RandomForestClassifier(4, random_state=1).fit(ROWS, words[THREE])
    (bench.path / "1").mkdir(parents=True)
    joblib.dump(estimator, bench.path / "1" / "model.pkl")
    expected = estimator.predict(ASKED)
    found = answered(bench, config(1, kind=DataType.TYPE_STRING))
    assert [word.decode() for word in found[:, 0]] == expected.tolist()
    indexes = answered(bench, config(1, kind=DataType.TYPE_INT32))
    assert words[indexes[:, 0]].tolist() == expected.tolist()
    assert opened(bench, config()).config.output[0].data_type == DataType.TYPE_STRING


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64", "INT32", "INT64", "UINT8", "BOOL"])
@pytest.mark.parametrize("file", ["xgboost.json", "model.txt", "checkpoint.tl", "model.skops"])
def test_datatypes_of_features(bench, file, kind):
    """Goal: any numbers will do; libraries get them in a form that they take."""
    model = written(bench.path, file, "regression")
    given = config(1, kind=DataType.TYPE_FP64)
    given.input[0].data_type = DataType[f"TYPE_{kind}"]
    rows = (ASKED * 4).astype({"FP16": "f2", "FP32": "f4", "FP64": "f8", "BOOL": "?"}.get(kind, kind.lower()))
    np.testing.assert_allclose(
        answered(bench, given, rows)[:, 0],
        model.predict(rows.astype(np.float32)),
        rtol=1e-3 if kind == "FP64" else 1e-5,
    )


@pytest.mark.parametrize("file", FORMATS)
def test_no_rows(bench, file):
    """Goal: a batch of no rows has an answer of no rows, whatever libraries think of it."""
    written(bench.path, file)
    instance = opened(bench, config(1)).open_instance(bench.instance())
    job = bench.job({"input__0": ASKED[:0]})
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["output__0"].shape == (0, 1)


def test_models_without_batches(bench):
    """Goal: the rows are a dimension of the tensor then."""
    model = written(bench.path, "xgboost.json")
    given = config(1, max_batch_size=0)
    given.input[0].dims, given.output[0].dims = [-1, FEATURES], [-1, 1]
    instance = opened(bench, given).open_instance(bench.instance())
    job = bench.job({"input__0": ASKED}, batching=False)
    instance.execute(bench.batch(job))
    np.testing.assert_array_equal(bench.outputs(job)["output__0"][:, 0], model.predict(ASKED))


def test_a_row_of_another_length_fails_alone(bench):
    """Goal: where the configuration leaves it open, the request that is wrong hears of it, its neighbour does not."""
    model = written(bench.path, "model.txt")
    instance = opened(bench, config(1, dims=-1)).open_instance(bench.instance())
    good, bad = bench.job({"input__0": ASKED}), bench.job({"input__0": ASKED[:, :2]})
    instance.execute(bench.batch(good, bad))
    np.testing.assert_array_equal(bench.outputs(good)["output__0"][:, 0], model.predict(ASKED))
    assert isinstance(bad.fault, InvalidArgument)
    assert "the model's rows have 6 features, got shape [7, 2]" in bad.fault.message


def test_a_model_that_raises(bench, monkeypatch):
    """Goal: its text reaches the caller."""
    written(bench.path, "model.txt")
    instance = opened(bench, config(1)).open_instance(bench.instance())
    monkeypatch.setattr(lightgbm.Booster, "predict", lambda *_, **__: 1 / 0)
    job = bench.job({"input__0": ASKED})
    instance.execute(bench.batch(job))
    assert isinstance(job.fault, ModelFailure)
    assert job.fault.message == "ZeroDivisionError: division by zero"


# Configurations


@pytest.mark.parametrize(
    ("file", "task", "parameters", "columns"),
    [
        ("xgboost.json", "regression", {}, 1),
        ("xgboost.json", "three", {}, 1),
        ("xgboost.json", "three", {"predict_proba": "true"}, 3),
        ("model.txt", "binary", {"predict_proba": "true"}, 2),
        ("checkpoint.tl", "three", {"predict_proba": "true"}, 3),
        ("model.skops", "binary", {"predict_proba": "true"}, 2),
    ],
)
def test_completion(bench, file, task, parameters, columns):
    """Goal: names, datatypes and dims follow from the file and from what is wanted."""
    written(bench.path, file, task)
    made = opened(bench, config(parameters=parameters)).config
    assert (made.max_batch_size, made.dynamic_batching.preferred_batch_size) == (4, [4])
    assert [(item.name, item.data_type, item.dims) for item in made.input] == [("input__0", FP32, [FEATURES])]
    assert [(item.name, item.data_type, item.dims) for item in made.output] == [("output__0", FP32, [columns])]


def test_only_what_is_missing_is_completed(bench):
    """Goal: what is configured stays."""
    written(bench.path, "model.txt")
    given = config(input=[ModelInput(name="rows", data_type=DataType.TYPE_FP64, dims=[-1, FEATURES])])
    made = opened(bench, given).config
    assert (made.max_batch_size, made.input) == (0, given.input)
    assert made.output[0].dims == [-1, 1]


def test_what_fil_says_of_gpus_changes_nothing(bench):
    """Goal: FIL's own parameters are taken, whatever has no meaning here."""
    model = written(bench.path, "xgboost.model")
    names = {
        "model_type": "xgboost",
        "storage_type": "SPARSE8",
        "algo": "NAIVE",
        "blocks_per_sm": "2",
        "threads_per_tree": "4",
        "transfer_threshold": "2",
        "use_experimental_optimizations": "true",
        "xgboost_allow_unknown_field": "true",
        "is_classifier": "true",
        "cpu_nthread": "-1",
    }
    np.testing.assert_array_equal(answered(bench, config(1, parameters=names))[:, 0], model.predict(ASKED))


@pytest.mark.parametrize(
    ("parameters", "fault", "text"),
    [
        ({"model_type": "catboost"}, Unsupported, "catboost not recognized as a valid serialization format."),
        ({"predict_proba": "yes"}, InvalidArgument, "parameter predict_proba must be 'true' or 'false', got 'yes'"),
        ({"threshold": "half"}, InvalidArgument, "parameter threshold must be a number, got 'half'"),
        ({"threshold": "nan"}, InvalidArgument, "parameter threshold must be a number, got 'nan'"),
        ({"cpu_nthread": "9999"}, InvalidArgument, "parameter cpu_nthread must be a number up to 1024"),
    ],
)
def test_parameters_that_cannot_be(bench, parameters, fault, text):
    written(bench.path, "xgboost.json")
    assert text in refused(bench, config(1, parameters=parameters), fault)


CHANGES = {
    "features": (lambda given: setattr(given.input[0], "dims", [5]), "tensor 'input__0'"),
    "columns": (lambda given: setattr(given.output[0], "dims", [2]), "tensor 'output__0'"),
    "strings": (lambda given: setattr(given.input[0], "data_type", DataType.TYPE_STRING), "must be numbers"),
    "optional": (lambda given: setattr(given.input[0], "optional", True), "not optional"),
    "two inputs": (lambda given: given.input.append(ModelInput(name="b")), "must have one input"),
    "two outputs": (lambda given: given.output.append(ModelOutput(name="b")), "it has output__0, b"),
    "text": (lambda given: setattr(given.output[0], "data_type", DataType.TYPE_STRING), "it is a class"),
    "ragged": (lambda given: setattr(given.input[0], "allow_ragged_batch", True), "no ragged batches"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_configurations_that_do_not_fit(bench, name):
    """Goal: each is refused at load, by the name of what is wrong."""
    written(bench.path, "xgboost.json")
    given = config(1)
    change, text = CHANGES[name]
    change(given)
    assert text in refused(bench, given)


def test_sequences_without_controls_are_fine(bench):
    """Goal: nothing would reach the model."""
    written(bench.path, "xgboost.json")
    opened(bench, config(1, sequence_batching=ModelSequenceBatching()))


@pytest.mark.parametrize("kind", [DataType.TYPE_INT32, DataType.TYPE_BOOL, DataType.TYPE_STRING])
def test_values_have_fractions(bench, kind):
    """Goal: an output that would lose them is refused."""
    written(bench.path, "xgboost.json", "regression")
    assert "it is a number with a fraction" in refused(bench, config(1, kind=kind))


def test_all_that_is_wrong_is_told_at_once(bench):
    written(bench.path, "xgboost.json")
    message = refused(bench, config(2, dims=5))
    assert "tensor 'input__0'" in message
    assert "tensor 'output__0'" in message


def test_contributions_of_models_that_have_none(bench):
    written(bench.path, "checkpoint.tl")
    given = config(1)
    given.output.append(ModelOutput(name="treeshap_output", data_type=FP32, dims=[FEATURES + 1]))
    assert "is there for models of XGBoost and LightGBM only" in refused(bench, given)


def test_probabilities_of_what_is_no_classifier(bench):
    written(bench.path, "model.txt", "regression")
    message = refused(bench, config(1, parameters={"predict_proba": "true"}))
    assert message == "unable to load model 'm': it is no classifier, so it has no predict_proba"


@pytest.mark.parametrize(
    ("estimator", "parameters", "text"),
    [
        (lambda: LinearSVC().fit(ROWS, BINARY), {"predict_proba": "true"}, "a LinearSVC has no probabilities"),
        (lambda: StandardScaler().fit(ROWS), {}, "the file holds a StandardScaler, which has no 'predict'"),
        (
            lambda: MultiOutputClassifier(KNeighborsClassifier(2)).fit(ROWS, np.stack([BINARY, THREE], 1)),
            {},
            "classifiers with several targets are not supported",
        ),
    ],
    ids=["probabilities", "predict", "targets"],
)
def test_estimators_that_cannot_be_served(bench, estimator, parameters, text):
    (bench.path / "1").mkdir(parents=True)
    joblib.dump(estimator(), bench.path / "1" / "model.joblib")
    assert text in refused(bench, config(1, parameters=parameters))


# Files


def test_no_file(bench):
    folder = bench.path / "1"
    bench.context(config())
    assert refused(bench, config(parameters={"model_type": "xgboost"}), Unavailable) == (
        f"unable to find '{folder}/xgboost.model' for model 'm'"
    )
    assert f"unable to find '{folder}/xgboost.model' or 'xgboost.json' or" in refused(bench, config(), Unavailable)


def test_two_files(bench):
    """Goal: none of them is chosen silently; the parameter or the file's name chooses."""
    model = written(bench.path, "xgboost.json")
    written(bench.path, "model.txt")
    assert "there are xgboost.json and model.txt" in refused(bench, config())
    found = answered(bench, config(1, parameters={"model_type": "xgboost_json"}))
    np.testing.assert_array_equal(found[:, 0], model.predict(ASKED))
    answered(bench, config(1, default_model_filename="model.txt"))


def test_a_file_of_another_name(bench):
    """Goal: its ending says what it is, or model_type must."""
    model = written(bench.path, "xgboost.json")
    (bench.path / "1" / "xgboost.json").rename(bench.path / "1" / "fraud.bin")
    given = config(1, default_model_filename="fraud.bin")
    assert "the parameter model_type must" in refused(bench, given)
    given.parameters["model_type"] = ModelParameter(string_value="xgboost_json")
    np.testing.assert_array_equal(answered(bench, given)[:, 0], model.predict(ASKED))


@pytest.mark.parametrize("file", FORMATS)
def test_a_file_that_is_none(bench, file):
    """Goal: the load fails with the library's words."""
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / file).write_bytes(b"junk\n" * 100)
    assert refused(bench, config(1), Internal).startswith("failed to load model 'm': ")


class Mischief:
    """What a pickle may do when it is opened."""

    def __reduce__(self):
        return Path.touch, (Path(sys.prefix) / "mischief",)


def test_types_that_nobody_trusts(bench):
    """Goal: a skops file makes nothing that skops, or the configuration, does not trust."""
    written(bench.path, "model.skops")
    given = config(1, parameters={"trusted_types": ""})
    assert f"types that are not trusted: {TRUSTED}. Name those" in refused(bench, given)


def test_pickles_may_be_refused(bench):
    """Goal: with allow-pickle=false nothing of a pickle is run, nor by the backend's other name."""
    (bench.path / "1").mkdir(parents=True)
    joblib.dump(Mischief(), bench.path / "1" / "model.pkl")
    message = refused(bench, config(1), backend_config={"allow-pickle": "false"})
    assert "'model.pkl' is a pickle, and the setting allow-pickle is false" in message
    with pytest.raises(InvalidArgument, match="the backend 'fil' opens none, 'trees' does"):
        FilBackend().open_model(bench.context(config(1, backend="fil")))
    assert not (Path(sys.prefix) / "mischief").exists()
    given = {"backend_config": {"allow-pickle": "perhaps"}}
    assert "allow-pickle must be 'true' or 'false', got 'perhaps'" in refused(bench, config(1), **given)


@pytest.mark.parametrize(
    ("file", "module", "name"),
    [
        ("xgboost.json", "xgboost", "xgboost"),
        ("model.txt", "lightgbm", "lightgbm"),
        ("checkpoint.tl", "treelite", "treelite"),
        ("model.pkl", "joblib", "scikit-learn"),
    ],
)
def test_a_library_that_is_missing(bench, monkeypatch, file, module, name):
    """Goal: the load error says what to install."""
    written(bench.path, file)
    monkeypatch.setitem(sys.modules, module, None)
    message = refused(bench, config(1), Unavailable)
    assert message.startswith(f"unable to load model 'm': {name} cannot be imported (")
    assert message.endswith("to get it: pip install 'despina[trees]'")


# Served


CONFIG = """
backend: "%s" max_batch_size: 32768
input [{ name: "input__0" data_type: TYPE_FP32 dims: [6] }]
output [{ name: "output__0" data_type: TYPE_FP32 dims: [%d] }]
instance_group [{ kind: KIND_AUTO }]
parameters [
  { key: "model_type" value: { string_value: "%s" } },
  { key: "predict_proba" value: { string_value: "true" } },
  { key: "output_class" value: { string_value: "true" } },
  { key: "trusted_types" value: { string_value: "sklearn.tree._tree.Tree" } }
]
dynamic_batching {}
"""


async def test_served_as_fil_through_both_doors(tmp_path):
    """Goal: FIL's usual configuration, every kind of file; HTTP and gRPC give the library's probabilities."""
    for file in FORMATS:
        name = file.replace(".", "_")
        written(tmp_path / name, file, "three")
        backend = "trees" if file in PICKLES else "fil"
        (tmp_path / name / "config.pbtxt").write_text(CONFIG % (backend, 3, TYPES[file]))

    def ask(module, port, name):
        rows = module.InferInput("input__0", list(ASKED.shape), "FP32")
        rows.set_data_from_numpy(ASKED)
        with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
            return client.infer(name, [rows]).as_numpy("output__0")

    async with both_doors(tmp_path) as doors:
        for file, (library, _) in FORMATS.items():
            expected = trained(library, "three").predict_proba(ASKED)
            for module, port in ((tritonclient.http, doors.http_port), (tritonclient.grpc, doors.grpc_port)):
                with trio.fail_after(20):
                    found = await trio.to_thread.run_sync(ask, module, port, file.replace(".", "_"))
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


async def test_served_without_a_word(tmp_path):
    """Goal: a backend's name is all that a configuration needs, and requests share batches."""
    model = written(tmp_path / "m", "xgboost.ubj")
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "trees"')
    async with despina.open_engine(tmp_path) as engine:
        answers = {}

        async def ask(row):
            answers[row] = (await engine.infer("m", {"input__0": ROWS[row : row + 1]}, timeout=20))["output__0"]

        async with trio.open_nursery() as nursery:
            for row in range(40):
                nursery.start_soon(ask, row)
        (statistics,) = engine.statistics("m")
        metadata = engine.model_metadata("m")
    expected = model.predict(ROWS[:40])
    assert [float(answers[row][0, 0]) for row in range(40)] == expected.tolist()
    assert statistics.execution_count < statistics.inference_count == 40
    assert [(item.name, item.shape) for item in metadata.inputs] == [("input__0", [-1, FEATURES])]


def test_both_names_are_one_backend():
    assert (TreesBackend.name, FilBackend.name) == ("trees", "fil")
    summary = TreesBackend().config_summary()
    assert f"xgboost-cpu {xgboost.__version__}, lightgbm {lightgbm.__version__}, scikit-learn " in summary
    assert json.dumps(summary)
