"""The command line, the environment and the file: syntax, precedence, and every complaint at once."""

from __future__ import annotations

import pytest
from despina.engine.port.resources import ResourceLimit
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.help import default_of, serve_help
from despina.frontends.cli.option import Option
from despina.frontends.cli.options import GROUPS, OPTIONS
from despina.frontends.cli.settings import BadSettings, settle

REPOSITORY = "--model-repository=/models"


def settled(*arguments, **environment):
    return settle(read_command_line([REPOSITORY, *arguments], environment))


def complaints(*arguments, **environment):
    with pytest.raises(BadSettings) as caught:
        settle(read_command_line(arguments, environment))
    return caught.value.complaints


def test_both_spellings_of_a_value():
    """Goal: `--name=value` and `--name value` mean the same, values with '=' and '-' too."""
    settings = settled("--http-port=9000", "--grpc-port", "9001", "--id", "--odd=name")
    assert settings.doors.http_port == 9000
    assert settings.doors.grpc_port == 9001
    assert settings.engine.id == "--odd=name"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("ON", True), ("1", True), ("False", False), ("off", False), ("0", False)]
)
def test_booleans(text, value):
    """Goal: true/on/1 and false/off/0 in any case."""
    assert settled(f"--allow-http={text}").doors.allow_http is value


def test_repeated_options_make_lists_and_others_take_the_last():
    """Goal: repositories and backend settings add up; a port given twice is the last one."""
    settings = settled(
        "--model-store=/more",
        "--http-port=1",
        "--http-port=2",
        "--backend-config=onnxruntime,a=1",
        "--backend-config=onnxruntime,b=x=y",
        "--backend-config=default-max-batch-size=8",
    )
    assert settings.engine.model_repository == ("/models", "/more")
    assert settings.doors.http_port == 2
    assert settings.engine.backend_config == {
        "onnxruntime": {"a": "1", "b": "x=y"},
        "": {"default-max-batch-size": "8"},
    }


def test_flag_takes_no_value():
    """Goal: --disable-auto-complete-config stands alone, and says so otherwise."""
    assert settled("--disable-auto-complete-config", "--http-port=1").engine.disable_auto_complete_config
    assert settled("--strict-model-config=true").engine.disable_auto_complete_config
    assert complaints(REPOSITORY, "--disable-auto-complete-config=true") == [
        "option '--disable-auto-complete-config' doesn't allow an argument"
    ]


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--http-port=abc", 'Bad option: "--http-port".\nInvalid option value. Got abc'),
        ("--allow-http=maybe", 'Bad option: "--allow-http".\ninvalid value for bool option: maybe'),
        ("-x", "Unexpected argument: -x"),
        ("--http-prt=1", "unrecognized option '--http-prt'; did you mean '--http-port'?"),
        ("--http-port", "option '--http-port' requires an argument"),
        ("--backend-config=a", "Bad option: \"--backend-config\".\n--backend-config option format is "
         "'<backend name>,<setting>=<value>'. Got a"),
        ("--metrics-config=a,b=c", 'Bad option: "--metrics-config".\n--metrics-config option format is '
         "<setting>=<value>. Got a,b=c"),
        ("--load-model=x", "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well."),
        ("--grpc-port=8000", "The server cannot listen to HTTP requests and GRPC requests at the same address and "
         "port 0.0.0.0:8000"),
        ("--metrics-config=histogram_latencies=maybe", "--metrics-config: histogram_latencies is true or false, got "
         "'maybe'"),
        ("--metrics-config=summary_quantiles=2:0.1", "--metrics-config: summary_quantiles is <quantile>:<error>,... "
         "with numbers from 0 to 1, got '2:0.1'"),
        ("--trace-config=foo", 'Bad option: "--trace-config".\n--trace-config option format is '
         "'<trace mode>,<setting>=<value>'. Got foo"),
        ("--trace-config=zip,a=b", 'Bad option: "--trace-config".\ninvalid value for trace mode option: zip. Available '
         'options are "triton" and "opentelemetry"'),
        ("--trace-config=level=BAD", "invalid value for trace level option: bad"),
        ("--trace-config=rate=x", 'Bad option: "--trace-config rate".\nInvalid option value. Got x'),
        ("--trace-config=triton,fil=x", "Bad option: \"--trace-config fil\".\nunknown setting 'fil' of mode triton"),
        ("--http-restricted-api=health", "--http-restricted-api option format is '<apis>:<key>=<value>'. Got health"),
        ("--http-restricted-api=healt:k=v", "unknown restricted api 'healt'"),
        ("--http-restricted-api=health,health:k=v", "restricted api 'health' can not be specified in multiple config "
         "groups"),
    ],
)  # fmt: skip
def test_complaints_in_the_protocols_words(argument, complaint):
    """Goal: each mistake gets one clear complaint."""
    assert complaints(REPOSITORY, argument) == [complaint]


@pytest.mark.parametrize(
    "argument",
    ["--http-port=70000", "--http-port=-1", "--http-max-input-size=0", "--model-load-thread-count=0",
     "--exit-timeout-secs=nan", "--exit-timeout-secs=-1", "--log-format=xml", "--model-control-mode=sometimes"],
)  # fmt: skip
def test_values_out_of_range_are_refused(argument):
    """Goal: a value that cannot work names its option."""
    (complaint,) = complaints(REPOSITORY, argument)
    assert complaint.startswith(f'Bad option: "{argument.partition("=")[0]}".')


def test_beginnings_of_names():
    """Goal: a name may be cut short, as getopt allows: the reference server's names first, so that ours take no short
    form away; an exact name is never ambiguous."""
    settings = settled("--log-warn=false", "--model-control=explicit", "--http-h=^x-", "--log-fi", "a.log")
    assert settings.log.warning is False
    assert settings.engine.model_control_mode == "explicit"
    assert settings.http.forward_pattern == "^x-"  # and not --http-head-timeout, which is ours
    assert settings.log.file == "a.log"
    assert settled("--http-body-b=5").http.body_bytes_max == 5  # ours, where it is the only one
    assert settled("--disable-auto").engine.disable_auto_complete_config
    assert complaints(REPOSITORY, "--log-f=x") == [
        "option '--log-f' is ambiguous; possibilities: '--log-format' '--log-file'"
    ]
    assert complaints(REPOSITORY, "--http-por=abc") == ['Bad option: "--http-port".\nInvalid option value. Got abc']
    assert complaints(REPOSITORY, "--=1") == ["unrecognized option '--'"]


def test_ports_of_closed_doors():
    """Goal: the port of a door that does not open, or opens at a path, may be any number; that of an open one is
    checked, and the complaint says where it was given."""
    assert settled("--allow-http=0", "--http-port=-47").doors.http_port == -47
    assert settled("--http-address=unix:/run/x", "--http-port=70000").doors.http_port == 70000
    assert complaints(REPOSITORY, "--allow-http=0", "--http-port=x") == [
        'Bad option: "--http-port".\nInvalid option value. Got x'
    ]
    assert complaints(REPOSITORY, DESPINA_METRICS_PORT="-47") == [
        'Bad option: "--metrics-port".\nDESPINA_METRICS_PORT: a port is 0 (any free one) to 65535, got -47'
    ]


@pytest.mark.parametrize(
    ("text", "quantiles", "read"),
    [
        ("0.1:0.0.1", (0.1,), ["0.1:0"]),
        ("0.5:0.05,0.9x:0.01", (0.5, 0.9), ["0.9:0.01"]),
        ("0.5,x:0.1", (0.5, 0.0), ["0:0.1"]),
        (" +5e-1:.1", (0.5,), []),
    ],
)
def test_quantiles_are_read_as_far_as_they_are_numbers(text, quantiles, read):
    """Goal: what strtod makes of a slip is what the reference server serves; here with a warning."""
    values = read_command_line([REPOSITORY, f"--metrics-config=summary_quantiles={text}"], {})
    settings = settle(values)
    assert settings.metrics.quantiles == quantiles
    assert [warning.partition(" is read as ")[2] for warning in values.warnings] == read


def test_collector_without_a_scheme():
    """Goal: `url=host:port/path` is http's, and settings show it as it was given."""
    settings = settled("--trace-config=mode=opentelemetry", "--trace-config=opentelemetry,url=localhost:4318/v1/traces")
    assert settings.engine.trace.options["url"] == "localhost:4318/v1/traces"
    (complaint,) = complaints(REPOSITORY, "--trace-config=opentelemetry,url=ftp://x")
    assert complaint.endswith("expected http://<host>:<port>/<path>, got ftp://x")


def test_all_complaints_at_once():
    """Goal: nobody repairs a command line one mistake at a time."""
    found = complaints("--http-port=x", "--nonsense=1", "-x", "--load-model=x")
    assert len(found) == 5
    assert found[-2] == "--model-repository must be specified"


def test_load_model_star_stands_alone():
    """Goal: `*` beside a name is refused."""
    mode = "--model-control-mode=explicit"
    assert settled(mode, "--load-model=*").engine.load_model == ("*",)
    assert "cannot stand beside" in complaints(REPOSITORY, mode, "--load-model=*", "--load-model=a")[0]


def test_flag_wins_over_environment_over_file_over_default(tmp_path):
    """Goal: the documented precedence, for single values and for lists."""
    file = tmp_path / "despina.toml"
    file.write_text('id = "file"\nhttp-port = 1\ngrpc_port = 2\nallow-grpc = false\nmodel-repository = ["/a", "/b"]\n')
    values = read_command_line(
        ["--config", str(file), "--http-port=3"], {"DESPINA_HTTP_PORT": "4", "DESPINA_ID": "env", "PATH": "x"}
    )
    settings = settle(values)
    assert (settings.doors.http_port, settings.engine.id, settings.doors.grpc_port) == (3, "env", 2)
    assert settings.engine.model_repository == ("/a", "/b")
    assert settings.doors.allow_grpc is False
    assert settings.doors.metrics_port == 8002
    assert settle(read_command_line([], {"DESPINA_MODEL_REPOSITORY": "/x;/y"})).engine.model_repository == ("/x", "/y")


def test_complaints_about_a_file_name_the_line(tmp_path):
    """Goal: an unknown key and a bad value say file, line and the nearest name."""
    file = tmp_path / "despina.toml"
    file.write_text('# comment\nhttp-prot = 1\n\ngrpc-port = "x"\nid = [1]\n')
    found = complaints(REPOSITORY, f"--config={file}")
    assert f"{file}:2: unknown option 'http-prot'; did you mean '--http-port'?" in found
    assert f"{file}:5: option 'id': expected one value, got [1]" in found
    assert f'Bad option: "--grpc-port".\n{file}:4: Invalid option value. Got x' in found


@pytest.mark.parametrize("content", [b"= 1", b"\xff\xfe", None])
def test_unreadable_file_is_one_complaint(tmp_path, content):
    """Goal: bad TOML, bad UTF-8 and a missing file are named."""
    file = tmp_path / "despina.toml"
    if content is not None:
        file.write_bytes(content)
    (complaint,) = complaints(REPOSITORY, f"--config={file}")
    assert str(file) in complaint


def test_environment_of_an_orchestrator_does_no_harm():
    """Goal: Kubernetes' DESPINA_HTTP_PORT=tcp://... is not ours; a near miss of a real name is noted."""
    values = read_command_line(
        [REPOSITORY], {"DESPINA_HTTP_PORT": "tcp://10.0.0.1:80", "DESPINA_SERVICE_HOST": "x", "DESPINA_HTP_PORT": "1"}
    )
    assert settle(values).doors.http_port == 8000
    assert values.warnings == ["environment variable DESPINA_HTP_PORT is unknown; did you mean DESPINA_HTTP_PORT?"]


def test_tuning_options_are_noted_and_missing_features_refused():
    """Goal: start scripts written for the reference server go on working where nothing is lost, and say where it is."""
    values = read_command_line([REPOSITORY, "--http-thread-count=8", "--pinned-memory-pool-byte-size=1"], {})
    settle(values)
    assert [note.partition(" has no effect here")[0] for note in values.notes] == [
        "--http-thread-count",
        "--pinned-memory-pool-byte-size",
    ]
    (complaint,) = complaints(REPOSITORY, "--model-load-gpu-limit=0:0.5")
    assert complaint.startswith('Bad option: "--model-load-gpu-limit".\nNot built yet: ')


def everything():
    return [option for option in OPTIONS.values() if option.fate == "not built"]


@pytest.mark.parametrize("option", everything(), ids=lambda option: option.name)
def test_missing_features_may_be_asked_for_their_default(option):
    """Goal: asking for nothing is no mistake; an option without a default may be empty."""
    settled(f"--{option.name}={option.default}")


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS.values() if option.target], ids=lambda option: option.name
)
def test_targets_exist_and_settings_are_used(option):
    """Goal: every target of the table is a field of its settings class."""
    settings = settled("--model-control-mode=explicit")
    assert hasattr(getattr(settings, option.part), option.field_name)
    default_of(option)


def test_every_option_of_the_reference_server_is_known():
    """Goal: no name of its command line is forgotten."""
    assert sum(len(group) for group in GROUPS.values()) == len(OPTIONS)
    names = """id exit-timeout-secs model-repository model-store exit-on-error disable-auto-complete-config
    strict-model-config strict-readiness model-control-mode repository-poll-secs load-model model-config-name
    model-load-thread-count model-load-retry-count model-namespacing enable-peer-access allow-http http-address
    http-port reuse-http-port http-thread-count http-header-forward-pattern http-max-input-size http-restricted-api
    allow-grpc grpc-address grpc-port reuse-grpc-port grpc-infer-allocation-pool-size grpc-infer-thread-count
    grpc-max-response-pool-size grpc-header-forward-pattern grpc-use-ssl grpc-use-ssl-mutual grpc-server-cert
    grpc-server-key grpc-root-cert grpc-infer-response-compression-level grpc-keepalive-time grpc-keepalive-timeout
    grpc-keepalive-permit-without-calls grpc-http2-max-pings-without-data
    grpc-http2-min-recv-ping-interval-without-data grpc-http2-max-ping-strikes grpc-max-connection-age
    grpc-max-connection-age-grace grpc-restricted-protocol log-verbose log-info log-warning log-error log-format
    log-file allow-sagemaker sagemaker-port sagemaker-safe-port-range sagemaker-thread-count allow-vertex-ai
    vertex-ai-port vertex-ai-thread-count vertex-ai-default-model allow-metrics allow-gpu-metrics allow-cpu-metrics
    metrics-address metrics-port metrics-interval-ms metrics-config trace-config trace-file trace-level trace-rate
    trace-count trace-log-frequency backend-directory backend-config repoagent-directory cache-config cache-directory
    response-cache-byte-size rate-limit rate-limit-resource pinned-memory-pool-byte-size cuda-memory-pool-byte-size
    cuda-virtual-address-size min-supported-compute-capability buffer-manager-thread-count host-policy
    model-load-gpu-limit allow-client-shm"""
    assert set(names.split()) - set(OPTIONS) == set()


def test_help_shows_every_option_with_its_default():
    """Goal: the help is whole, fits a wide terminal, and shows defaults from the fields."""
    text = serve_help()
    for name in OPTIONS:
        assert f"--{name}" in text
    assert "[8000]" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_options_are_plain_values():
    """Goal: a repeated list in one source does not leak into the next reading."""
    assert settled().engine.model_repository == settled().engine.model_repository == ("/models",)
    assert isinstance(OPTIONS["id"], Option)


def test_limits_of_resources():
    """Goal: a resource of all devices or one, or the protocol's complaint."""
    given = settled("--rate-limit=EXECUTION_COUNT", "--rate-limit-resource=R:4", "--rate-limit-resource=a b:0:1").engine
    assert given.rate_limit == "execution_count"
    assert given.rate_limit_resource == (
        ResourceLimit(name="R", count=4),
        ResourceLimit(name="a b", count=0, device=1),
    )
    expected = "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or '<resource_name>:<count>'."
    for text, complaint in (
        ("R", f"{expected} Got R"),
        ("R:1:2:3", f"{expected} Got R:1:2:3"),
        ("R:x", "Invalid option value. Got x"),
        ("R:1:", "Invalid option value. Got "),
        ("R:-1", "--rate-limit-resource: there cannot be less than nothing of 'R'. Got R:-1"),
    ):
        assert any(complaint in line for line in complaints(f"--rate-limit-resource={text}")), text


def test_host_policies():
    """Goal: settings by policy, or the protocol's complaints."""
    given = settled("--host-policy=cpu,cpu-cores=0-1", "--host-policy=a b,numa-node=0", "--host-policy=cpu,numa-node=1")
    assert given.engine.host_policy == {"cpu": {"cpu-cores": "0-1", "numa-node": "1"}, "a b": {"numa-node": "0"}}
    for text in ("x", "a,b", ",b=c", "a=b,c", "a,=c"):
        expected = f"--host-policy option format is '<policy name>,<setting>=<value>'. Got {text}"
        assert any(expected in line for line in complaints(f"--host-policy={text}")), text
    assert any("Unsupported host policy setting 'b'" in line for line in complaints("--host-policy=a,b=c"))


def test_a_cache():
    """Goal: one cache, by its settings or in the deprecated form, in the protocol's words; secrets are not shown."""
    given = settled("--cache-config=redis,host=h", "--cache-config=redis,password=a=b,c", "--cache-joins=true")
    assert given.engine.cache_config == {"redis": {"host": "h", "password": "a=b,c"}}
    assert given.engine.cache_joins
    assert settled().engine.cache() == settled("--response-cache-byte-size=0").engine.cache() == {}
    values = read_command_line([REPOSITORY, "--response-cache-byte-size=1000"], {})
    assert settle(values).engine.cache() == {"local": {"size": "1000"}}
    assert any(
        "The equivalent --cache-config CLI args would be: '--cache-config=local,size=1000'" in line
        for line in values.warnings
    )
    for arguments, text in (
        (
            ["--cache-config=local"],
            "No cache specified. --cache-config option format is <cache name>,<setting>=<value>. Got local",
        ),
        (
            ["--cache-config=size=1"],
            "No cache specified. --cache-config option format is <cache name>,<setting>=<value>. Got size=1",
        ),
        (
            ["--cache-config=local,size"],
            "--cache-config option format is <cache name>,<setting>=<value>. Got local,size",
        ),
        (
            ["--cache-config=local,size=1", "--cache-config=redis,host=x"],
            "found multiple cache configurations, but only a single cache is currently supported",
        ),
        (
            ["--cache-config=local,size=1", "--response-cache-byte-size=1"],
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide one "
            "or the other.",
        ),
    ):
        assert any(text in complaint for complaint in complaints(REPOSITORY, *arguments)), arguments
