"""Where repositories are and who the server is to a cloud: pure readings of what operators write."""

import json

import pytest
from despina.engine.repository.credentials import options
from despina.engine.repository.locations import CloudLocation, cloud_location
from despina.schema.fault import InvalidArgument


@pytest.mark.parametrize(
    ("text", "bucket", "prefix", "endpoint"),
    [
        ("s3://bucket", "bucket", "", ""),
        ("s3://bucket/", "bucket", "", ""),
        ("s3://my.bucket/a/b/", "my.bucket", "a/b", ""),
        ("s3://bucket//a//b", "bucket", "a/b", ""),
        ("s3://localhost:4566/bucket/a", "bucket", "a", "http://localhost:4566"),
        ("s3://10.0.0.1:9000/bucket", "bucket", "", "http://10.0.0.1:9000"),
        ("s3://[::1]:9000/bucket", "bucket", "", "http://[::1]:9000"),
        ("s3://http://host:9000/bucket/a", "bucket", "a", "http://host:9000"),
        ("s3://https://host:9000/bucket/a", "bucket", "a", "https://host:9000"),
        ("s3://https://host/bucket/a", "bucket", "a", "https://host"),
    ],
)
def test_s3(text, bucket, prefix, endpoint):
    assert cloud_location(text) == CloudLocation("s3", text, bucket, prefix, endpoint)


def test_other_clouds():
    assert cloud_location("gs://bucket/a/b") == CloudLocation("gs", "gs://bucket/a/b", "bucket", "a/b")
    text = "as://account/container/a/b"
    assert cloud_location(text) == CloudLocation("as", text, "container", "a/b", account="account")
    text = "as://account.blob.core.windows.net/container"
    assert cloud_location(text) == CloudLocation("as", text, "container", account="account")
    text = "as://account.blob.example.org/container"
    assert cloud_location(text) == CloudLocation(
        "as", text, "container", endpoint="https://account.blob.example.org", account="account"
    )


@pytest.mark.parametrize("text", ["/models", "models", "file:///models", "C:/x", ""])
def test_this_machine(text):
    assert cloud_location(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3:///a",
        "s3://bucket/../other",
        "s3://bucket/./a",
        "s3://host:99999/bucket",
        "s3://host:9000",
        "gs://",
        "as://account",
        "as://ACCOUNT/container",
        "http://host/bucket",
        "hdfs://host/a",
    ],
)
def test_what_is_no_location(text):
    with pytest.raises(ValueError, match="'"):
        cloud_location(text)


S3 = cloud_location("s3://bucket/a")
GS = cloud_location("gs://bucket/a")
AS = cloud_location("as://account/container")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, {"region": "us-east-1"}),
        (
            {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu-west-1"},
            {"access_key_id": "k", "secret_access_key": "s", "region": "eu-west-1"},
        ),
        (
            {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"},
            {"access_key_id": "k", "secret_access_key": "s", "session_token": "t", "region": "us-east-1"},
        ),
        ({"AWS_ACCESS_KEY_ID": "k"}, {"region": "us-east-1"}),
        ({"AWS_ENDPOINT_URL": "http://h:1"}, {"region": "us-east-1", "endpoint": "http://h:1"}),
    ],
)
def test_s3_from_the_environment(tmp_path, environment, found):
    assert options(S3, {"HOME": str(tmp_path), **environment}) == found


def test_s3_profiles(tmp_path):
    """Goal: keys of the environment come before a profile's; a profile that is named and not there is refused."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id=d\naws_secret_access_key=ds\n[p]\naws_access_key_id=p\naws_secret_access_key=p%s\n"
    )
    (tmp_path / ".aws" / "config").write_text("[profile p]\nregion=eu-north-1\n")
    home = {"HOME": str(tmp_path)}
    default = {"access_key_id": "d", "secret_access_key": "ds", "region": "us-east-1"}
    assert options(S3, home) == default
    profile = {"access_key_id": "p", "secret_access_key": "p%s", "region": "eu-north-1"}
    assert options(S3, {**home, "AWS_PROFILE": "p"}) == profile
    pair = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    assert options(S3, {**home, "AWS_PROFILE": "p", **pair})["access_key_id"] == "k"
    with pytest.raises(InvalidArgument, match="the AWS profile 'q' is in none of"):
        options(S3, {**home, "AWS_PROFILE": "q"})
    (tmp_path / ".aws" / "credentials").write_text("no section")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        options(S3, home)


def test_google(tmp_path):
    path = tmp_path / "key.json"
    assert options(GS, {}) == {}
    path.write_text('{"type": "service_account"}')
    assert options(GS, {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}) == {"service_account": str(path)}
    path.write_text('{"type": "authorized_user"}')
    assert options(GS, {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}) == {"application_credentials": str(path)}
    path.write_text("[]")
    with pytest.raises(InvalidArgument, match="is no JSON file that can be read"):
        options(GS, {"GOOGLE_APPLICATION_CREDENTIALS": str(path)})


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, {"skip_signature": True}),
        ({"AZURE_STORAGE_KEY": "k"}, {"account_key": "k"}),
        ({"AZURE_STORAGE_AUTH_TYPE": "default", "AZURE_STORAGE_KEY": "k"}, {}),
        (
            {"AZURE_STORAGE_AUTH_TYPE": "managed_identity", "AZURE_STORAGE_CLIENT_ID": "c"},
            {"client_id": "c"},
        ),
    ],
)
def test_azure(environment, found):
    assert options(AS, environment) == {"account_name": "account", **found}


def test_an_azure_authentication_that_is_none():
    with pytest.raises(InvalidArgument, match="'magic'"):
        options(AS, {"AZURE_STORAGE_AUTH_TYPE": "magic"})


def test_the_file_of_credentials(tmp_path):
    """Goal: the longest beginning that fits wins; the environment counts for nothing then."""
    file = tmp_path / "credentials.json"

    def keys(key, **more):
        return {"key_id": key, "secret_key": "s", "region": "r", **more}

    file.write_text(
        json.dumps(
            {
                "s3": {
                    "": keys("any"),
                    "s3://bucket": keys("bucket", session_token="t"),
                    "s3://bucket/abc": keys("longer"),
                },
                "as": {"as://account": {"account_str": "account", "account_key": "k"}},
                "gs": {"gs://bucket": str(tmp_path / "missing.json")},
            }
        )
    )
    environment = {"TRITON_CLOUD_CREDENTIAL_PATH": str(file), "AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "e"}

    def key(text):
        return options(cloud_location(text), environment)["access_key_id"]

    assert key("s3://other/x") == "any"
    assert key("s3://bucket/a") == "bucket"
    assert key("s3://bucket/abc/d") == "longer"
    assert options(S3, environment)["session_token"] == "t"
    assert options(AS, environment) == {"account_name": "account", "account_key": "k"}
    with pytest.raises(InvalidArgument, match=r"the Google credential .*missing.json"):
        options(GS, environment)
    with pytest.raises(InvalidArgument, match="has no credential that fits 'gs://else/a'"):
        options(cloud_location("gs://else/a"), environment)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"s3": []}', '{"s3": {"": "x"}}', '{"s3": {"": {"key_id": 1}}}'])
def test_a_file_of_credentials_that_is_none(tmp_path, content):
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidArgument, match="TRITON_CLOUD_CREDENTIAL_PATH"):
        options(S3, {"TRITON_CLOUD_CREDENTIAL_PATH": str(file)})
