"""What is hidden before somebody else reads it, and what has to stay readable."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
import yaml
from ansible_collections.llm_d.multi_engine.plugins.module_utils.redact import (
    MASK,
    Redactor,
    forms,
    is_opaque,
    is_secret_name,
    secret_values,
)

HF = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
SK = "sk-proj-" + "Ab12_Cd34-Ef56Gh78Ij90"
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ.c2lnbmF0dXJl_-AB"
WORD = "S3cr3tV4lue"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq83vEjRWeJ==\n-----END RSA PRIVATE KEY-----"
LINES = KEY.splitlines()[1:3]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "hf_token", "hfToken", "HFTOKEN", "token", "TOKEN", "id-token",
        "accessToken", "access_tokens", "GITHUB_TOKEN", "X-Auth-Token", "bearerToken", "token_value",
        "OPENAI_API_KEY", "api-key", "--api-key", "apiKey", "apikey", "api_keys", "APIKey", "x-api-key", "admin_api_key",
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ANYTHING", "aws_secret_access_key",
        "password", "DB_PASSWORD", "PGPASSWORD", "ssl_keyfile_password", "passphrase", "MYSQL_PWD", "REDIS_PASS",
        "ansible_become_pass", "ansible_become_password",
        "client-key-data", "client_secret", "CLIENT_SECRET", "secretKey", "privateKey", "ssh-privatekey", "tls.key",
        "ENCRYPTION_KEY", "credentials", "S3_CREDENTIAL", ".dockerconfigjson", "Authorization", "Proxy-Authorization",
        "Set-Cookie", "cookie", "metrics.hf_token", "vault_llm_d_hf_token", "llm_d_hf_token",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "1", "max-tokens", "max_tokens", "--max-total-tokens", "max_total_num_tokens", "tokens", "num_tokens",
        "tokenizer", "tokenizer_path", "--tokenizer-mode", "skip_tokenizer_init", "token-load-scorer", "new-token",
        "#cached-token", "pad_token", "eos_token_id", "bos_token", "image_token_id", "stop_token_ids", "token usage",
        "max_tokens_per_request", "time_per_output_token", "time_to_first_token", "detokenizer", "tokenExpirationSeconds",
        "key", "keys", "public_key", "topologyKey", "cache_key", "monkey", "keyfile", "ssl-keyfile", "key_name", "keyword",
        "secretName", "credentialName", "secretKeyRef", "secretRef", "HF_TOKEN_PATH", "PASSWORD_FILE", "token_file",
        "bearerTokenFile", "secret_version", "passwordPolicy", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
        "llm_d_hf_token_secret", "model_service_hf_token_secret", "model_service_hf_token_key", "PWD", "OLDPWD",
        "forward_pass", "pass", "author", "authorization-mode", "HF_HOME", "image", "uid", "digest", "metadata.uid",
        "section", "second", "compass", "bypass",
    ],
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


# Texts: what may not be in the result, and what has to be.
HIDDEN = [
    # names
    (f"HF_TOKEN={WORD}", [WORD], ["HF_TOKEN="]),
    ("HF_TOKEN=short", ["short"], ["HF_TOKEN="]),
    (f"export OPENAI_API_KEY='{WORD}'", [WORD], ["OPENAI_API_KEY"]),
    ("password: correct horse, battery staple", ["correct", "horse", "battery", "staple"], ["password: "]),
    ("PGPASSWORD=a,b;c&d)e", ["a,b", ";c", "&d", ")e"], []),
    ("2026-01-01T00:00:00.123456789Z password: two words", ["two", "words"], ["2026-01-01T00:00:00.123456789Z"]),
    (f"2026 starting with token: {WORD}, port: 8000", [WORD], ["port: 8000"]),
    (f"args(model='a', api_key='{WORD}', port=1)", [WORD], ["model='a'", "port=1"]),
    (f"args(api_key=None, admin_api_key={WORD}, port=1)", [WORD], ["api_key=None", "port=1"]),
    (f"non-default args: {{'api_key': ['{WORD}', 'Another1Key2'], 'port': 8000}}", [WORD, "Another1Key2"], ["'port': 8000"]),
    (f'{{"a": 1, "client_secret": "{WORD}", "b": 2}}', [WORD], ['"a": 1', '"b": 2']),
    (f'{{"msg":"{{\\"token\\":\\"{WORD}\\",\\"n\\":1}}"}}', [WORD], ['\\"n\\":1']),
    (f'"password": "with \\"quotes\\" {WORD}", "b": 2', [WORD, "quotes"], ['"b": 2']),
    (f"Config{{Token:{WORD} Port:1}}", [WORD], ["Port:1"]),
    (f"config => api_key => {WORD}", [WORD], []),
    (f"SecretStr: token=Wrapped('{WORD}')", [WORD], []),
    (f"api_key=b'{WORD}'", [WORD], []),
    (f"password=it's\"{WORD}\"", [WORD], []),
    (f"GET /x?token={WORD}&a=b HTTP/1.1", [WORD], ["&a=b HTTP/1.1"]),
    (f"GET /x%3Ftoken%3D{WORD}", [WORD], ["GET /x"]),
    (f"https://host/x?X-Amz-Credential={WORD}&X-Amz-Signature=abcdef&X-Amz-Date=2026", [WORD, "abcdef"], ["Date=2026"]),
    (f"https://account/x?sv=1&sig={WORD}&se=2", [WORD], ["sv=1", "se=2"]),
    (f"- name: HF_TOKEN\n  value: {WORD}\n- name: A\n  value: b", [WORD], ["name: A\n  value: b"]),
    (f'{{"name":"HF_TOKEN","value":"{WORD}"}}', [WORD], ["HF_TOKEN"]),
    (f'{{\\"name\\":\\"HF_TOKEN\\",\\"value\\":\\"{WORD}\\"}}', [WORD], ["HF_TOKEN"]),
    (f"[{{Name:HF_TOKEN Value:{WORD} ValueFrom:nil}}]", [WORD], ["ValueFrom:nil"]),
    (f"tls.key: |\n  {WORD}\n  more{WORD}\nnext: 1\n{{{{ not yaml", [WORD], ["next: 1"]),
    (f"client-key-data: {WORD}\ntoken: {WORD}x", [WORD], ["client-key-data"]),
    # flags
    (f"serve --api-key {WORD} --port 8000", [WORD], ["--port 8000"]),
    (f"serve --api-key={WORD} --port 8000", [WORD], ["--port 8000"]),
    (f"serve --api-key '{WORD} x' --port 8000", [WORD], ["--port 8000"]),
    (f"serve --hf-token   {WORD}", [WORD], []),
    (f'["--api-key", "{WORD}", "--port", "8000"]', [WORD], ["--port", "8000"]),
    (f"['--api-key={WORD}', '--port']", [WORD], ["--port"]),
    (f"args:\n- --api-key\n- {WORD}\n- --port\n{{{{ not yaml", [WORD], ["--port"]),
    (f"[--api-key {WORD} --port 1]", [WORD], ["--port 1"]),
    # shapes
    (f"found {HF} in cache", [HF, HF[4:]], ["found ", " in cache"]),
    (f"url%3D{HF}", [HF], []),
    (f"found {SK}.", [SK], []),
    (f"found {JWT}", [JWT, JWT.split(".")[1]], []),
    (f"x%3D{JWT}", [JWT], []),
    ("ghp_" + "a1" * 18, ["a1a1"], []),
    ("key AKIAIOSFODNN7EXAMPLE used", ["AKIAIOSFODNN7EXAMPLE"], [" used"]),
    (f"Authorization: Bearer {WORD}", [WORD], ["Authorization: "]),
    ("Authorization: Bearer abc", ["abc"], []),
    ("Authorization: abc", ["abc"], []),
    (f"-H 'authorization: Basic {encoded('me:' + WORD)}' -v", [encoded("me:" + WORD)], ["' -v"]),
    (f'{{"authorization": ["Bearer {WORD}"], "a": 1}}', [WORD], ['"a": 1']),
    (f"('authorization', 'Bearer {WORD}'), ('accept', '*')", [WORD], ["('accept', '*')"]),
    (f"(b'authorization', b'Bearer {WORD}')", [WORD], []),
    (f"map[Authorization:[Bearer {WORD}] Accept:[*]]", [WORD], ["Accept:[*]"]),
    (f'Authorization: Digest username="a", response="{WORD}"', [WORD], []),
    (f"sent Bearer {WORD} to it", [WORD], [" to it"]),
    (f"x-api-key: {WORD}", [WORD], ["x-api-key"]),
    (f"Cookie: session={WORD}; other=x{WORD}", [WORD], ["Cookie"]),
    (f"http://user:{WORD}@host:80/path", [WORD, "user"], ["http://", "@host:80/path"]),
    (f"http://user:p@{WORD}@host/", [WORD], ["@host/"]),
    (f"https://{WORD}@host/x", [WORD], ["@host/x"]),
    (f"postgresql+psycopg://u:{WORD}@db/x", [WORD], ["@db/x"]),
    (f"before\n{KEY}\nafter", LINES, ["before", "after"]),
    (json.dumps({"key": KEY, "b": 1}), LINES, ['"b": 1']),
    (KEY.rpartition("\n")[0], LINES, []),
    ("first line\n" + KEY.partition("\n")[2] + "\nafter", LINES, ["first line", "after"]),
    ("".join(f"2026-01-01T00:00:00Z {line}\n" for line in KEY.splitlines()[1:]), LINES, []),
    (f"data: {encoded(KEY)}", [encoded(KEY)[:40], encoded(KEY)[20:60]], ["data: "]),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r\n-----END OPENSSH PRIVATE KEY-----", ["b3BlbnNzaC1r"], []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gone", "left"), HIDDEN, ids=[str(number) for number in range(len(HIDDEN))])
def test_secrets_in_texts(text: str, gone: list[str], left: list[str]) -> None:
    redactor = Redactor()
    result = redactor.text(text)
    assert [part for part in gone if part in result] == [], result
    assert [part for part in left if part not in result] == [], result
    assert MASK in result
    assert redactor.text(result) == result


STAYS = [
    "max-tokens: 128",
    "--max-tokens 128 --tokenizer Qwen/Qwen3-32B --tokenizer-mode auto",
    "plugins:\n- type: token-load-scorer\n- pluginRef: token-load-scorer\n  weight: 2",
    "tokenizer: Qwen/Qwen3-32B\ntokenizer_path='Qwen/Qwen3-32B', skip_tokenizer_init=False",
    "[2026-11-22 21:00:00] Prefill batch. #new-seq: 1, #new-token: 512, #cached-token: 0, token usage: 0.02, #queue-req: 0",
    "Decode batch. #running-req: 1, #full token: 33, token: 128, gen throughput (token/s): 12.34, token_rate=3.5",
    "server_args=ServerArgs(api_key=None, admin_api_key=None, ssl_keyfile_password=None, hf_token='', max_total_tokens=8192)",
    "pad_token='<|endoftext|>', eos_token_id=151645, bos_token: <s>",
    "image: docker.io/lmsysorg/sglang:v0.5.20@sha256:" + "0123456789abcdef" * 4,
    "oci://registry/image@sha256:" + "0123456789abcdef" * 4,
    "uid: 7f9c2d1e-1b2c-4d3e-8f90-123456789abc",
    "https://host:8443/path?max_tokens=8&user=a#x",
    "see https://github.com/a/b and mail me@example.org",
    'MountVolume.SetUp failed for volume "token" : secret "llm-d-hf-token" not found',
    'Error: secret "llm-d-hf-token" not found; configmap "a" not found',
    "Push debounce stable[69] 5 for config Secret/llm-d/llm-d-hf-token and 2 more configs",
    "secretKeyRef: {name: llm-d-hf-token, key: HF_TOKEN}",
    "secretName: llm-d-hf-token",
    "automountServiceAccountToken: false",
    "llm_d_hf_token_secret: llm-d-hf-token",
    "env HF_TOKEN=$(OTHER) API_KEY=${API_KEY} TOKEN=$HF_TOKEN PASSWORD=null",
    "serve --api-key $(API_KEY) --port 8000",
    "usage: serve [--api-key API_KEY] [--port PORT]",
    "key: nvidia.com/gpu\noperator: Exists",
    "Basic authentication and Bearer authentication are off. Basic information",
    "disk-pressure-taint-controller-x1 task-1a2b3c4d5e6f7a8b9c",
    "hf_transfer hf_hub_download hf_overrides hf_quantization_config hf_modelconfiglongname",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBa\n-----END CERTIFICATE-----",
    "caBundle: " + encoded("-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBa"),
    "authorization mode is RBAC; authorization-mode=Node,RBAC; authentication:\n  webhook: true",
    "rbac.authorization.k8s.io/v1 roles secrets get list",
    "PWD=/root OLDPWD=/ forward_pass=3ms first_pass: 4",
    "monkey=banana keyword: value cache_key: 1a2b public_key=abc",
]


@pytest.mark.parametrize("text", STAYS)
def test_harmless_texts_stay(text: str) -> None:
    assert Redactor().text(text) == text


def deployment(**container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "qwen", "uid": "7f9c2d1e-1b2c-4d3e-8f90-123456789abc", "labels": {"a": "b"}},
        "spec": {"template": {"spec": {"containers": [{"name": "model-server", **container}]}}},
    }


@pytest.mark.parametrize(
    ("container", "shown"),
    [
        ({"env": [{"name": "HF_TOKEN", "value": WORD}]}, {"env": [{"name": "HF_TOKEN", "value": MASK}]}),
        ({"env": [{"name": "AWS_X", "value": "a"}]}, {"env": [{"name": "AWS_X", "value": MASK}]}),
        ({"env": [{"name": "DB_PASSWORD", "value": "true"}]}, {"env": [{"name": "DB_PASSWORD", "value": "true"}]}),
        ({"args": ["--api-key", WORD]}, {"args": ["--api-key", MASK]}),
        ({"args": ["--api-key", "one", "two", "--port", "1"]}, {"args": ["--api-key", MASK, MASK, "--port", "1"]}),
        ({"args": [f"--api-key={WORD}", "--port=1"]}, {"args": [f"--api-key={MASK}", "--port=1"]}),
        ({"args": [f"exec serve --api-key {WORD} --port 1"]}, {"args": [f"exec serve --api-key {MASK} --port 1"]}),
        (
            {"probe": {"httpHeaders": [{"name": "Authorization", "value": f"Bearer {WORD}"}]}},
            {"probe": {"httpHeaders": [{"name": "Authorization", "value": MASK}]}},
        ),
        ({"password": 12345678}, {"password": MASK}),
        ({"apiKeys": ["one", "two"]}, {"apiKeys": [MASK, MASK]}),
        ({"apiKey": {"value": "one"}}, {"apiKey": {"value": MASK}}),
    ],
)
def test_secrets_in_objects(container: dict[str, Any], shown: dict[str, Any]) -> None:
    assert Redactor().object(deployment(**container)) == deployment(**shown)


@pytest.mark.parametrize(
    "container",
    [
        {"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "llm-d-hf-token", "key": "HF_TOKEN"}}}]},
        {"env": [{"name": "API_KEY", "value": "$(OTHER)"}, {"name": "MAX_TOKENS", "value": "128"}]},
        {"args": ["--max-tokens", "128", "--tokenizer", "x", "--tokenizer-mode=auto", "--api-key", "$(API_KEY)"]},
        {"volumes": [{"name": "token", "secret": {"secretName": "tls-1", "items": [{"key": "tls.key", "path": "key"}]}}]},
        {"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]},
        {"automountServiceAccountToken": False, "imagePullSecrets": [{"name": "pull-secret-1"}]},
        {"rules": [{"resources": ["secrets", "tokenreviews"], "verbs": ["get"]}], "replicas": 2, "ratio": 0.5},
        {"imageID": "docker.io/x@sha256:" + "0123456789abcdef" * 4, "containerID": "containerd://" + "0a" * 32},
        {"data": {"config.yaml": "plugins:\n- type: token-load-scorer # a comment\n"}},
    ],
)  # fmt: skip
def test_harmless_objects_stay(container: dict[str, Any]) -> None:
    assert Redactor().object(deployment(**container)) == deployment(**container)


def test_what_kubectl_noted_down_and_who_changed_it() -> None:
    item = deployment()
    item["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(deployment(env=[{"name": "X", "value": WORD}])),
        "other": "stays",
    }
    field = {"f:spec": {f'v:"{WORD}"': {}}}
    entry = {"manager": "kubectl", "operation": "Apply", "time": "t", "fieldsType": "FieldsV1", "fieldsV1": field}
    item["metadata"]["managedFields"] = [entry]
    shown = Redactor().object(item)
    assert WORD not in json.dumps(shown)
    assert shown["metadata"]["annotations"]["other"] == "stays"
    assert shown["metadata"]["managedFields"] == [{"manager": "kubectl", "operation": "Apply", "time": "t"}]


@pytest.mark.parametrize(
    "text",
    [
        f"api:\n  keys:\n  - a\n  api_keys:\n  - {WORD}\n  - other1\nport: 8000\n",
        f"password: >-\n  {WORD}\nport: 8000\n",
        f"password:\n  {WORD}\nport: 8000\n",
        f"users:\n- name: a\n  user:\n    token: {WORD}\n    client-key-data: {encoded(WORD)}\nport: 8000\n",
        json.dumps({"auths": {"r.example": {"auth": "x", "password": WORD}}, "port": 8000}),
        f"env:\n- value: {WORD}\n  name: HF_TOKEN\nport: 8000\n",
        f"HF_TOKEN={WORD}\nport: 8000\n",
    ],
)
def test_secrets_in_files_of_config_maps(text: str) -> None:
    shown = Redactor().object({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"file": text}})["data"]["file"]
    assert not [part for part in (WORD, encoded(WORD), "other1") if part in shown], shown
    assert "8000" in shown


def test_a_config_map_with_a_token_by_its_key() -> None:
    item = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"HF_TOKEN": "x", "MAX_TOKENS": "8"}}
    assert Redactor().object(item)["data"] == {"HF_TOKEN": MASK, "MAX_TOKENS": "8"}


def test_many_copies_of_one_thing_are_not_unfolded() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "\n".join([*lines, f"token: {WORD}"])
    start = time.monotonic()
    assert WORD not in Redactor().object({"kind": "ConfigMap", "metadata": {}, "data": {"x": text}})["data"]["x"]
    assert time.monotonic() - start < 5


def test_a_secret_shows_keys_and_sizes_only() -> None:
    data = {"HF_TOKEN": encoded(WORD), "note": encoded("abc"), "odd": "%%%"}
    item = {"kind": "Secret", "type": "Opaque", "metadata": {"name": "a", "annotations": {"x": "y"}}, "data": data}
    shown = Redactor().secret(item)
    assert shown["data"] == {"HF_TOKEN": "(hidden, 11 bytes)", "note": "(hidden, 3 bytes)", "odd": "(hidden, 3 bytes)"}
    assert (shown["type"], shown["metadata"]) == ("Opaque", {"name": "a", "annotations": {"x": "y"}})
    for unaware in (Redactor().object(item), Redactor().object({**item, "stringData": {"a": WORD}})):
        assert not unaware.keys() & {"data", "stringData"}


PHRASE = 'pass/word+with "quotes" é'


@pytest.mark.parametrize(
    "written",
    [
        PHRASE,
        json.dumps({"x": PHRASE}),
        json.dumps(json.dumps({"x": PHRASE})),
        repr(PHRASE),
        encoded(PHRASE),
        encoded(f"user:{PHRASE}"),
        encoded(f"user1:{PHRASE}:more"),
        encoded(f"us:{PHRASE}"),
        base64.urlsafe_b64encode(f"user:{PHRASE}".encode()).decode(),
        "pass%2Fword%2Bwith%20%22quotes%22%20%C3%A9",
        yaml.safe_dump({"x": PHRASE}, allow_unicode=True),
    ],
)
def test_a_known_value_goes_however_it_is_written(written: str) -> None:
    redactor = Redactor([PHRASE])
    assert redactor.leaks(f"<{written}>")
    shown = redactor.text(f"<{written}>")
    assert not redactor.leaks(shown)
    for form in (PHRASE, encoded(PHRASE)[4:-4], "quotes", "word"):
        assert form not in shown


def test_a_value_broken_over_lines_is_noticed() -> None:
    assert Redactor(["four words and more"]).leaks("x: four words\n  and more")


def test_short_values_and_public_names_are_no_needles() -> None:
    redactor = Redactor(["llm-d", "inference"], public=["inference"])
    assert redactor.text("llm-d of inference") == "llm-d of inference"


def test_what_was_hidden_once_is_hidden_everywhere() -> None:
    redactor = Redactor()
    value = "Zx81Zx82Zx83Zx84"
    assert redactor.object(deployment(env=[{"name": "HF_TOKEN", "value": value}]))
    assert value not in redactor.text(f"logged in as {value}, or {encoded(value)}")
    assert redactor.text(f"{encoded(value)}") == MASK
    # A name is none of that, or the whole bundle would be without it.
    assert redactor.object(deployment(env=[{"name": "SECRET_STORE", "value": "qwen3-32b-sglang"}]))
    assert redactor.text("pod qwen3-32b-sglang") == "pod qwen3-32b-sglang"


def test_a_known_number() -> None:
    assert Redactor(["12345678"]).value({"a": [12345678, 1234, True]}) == {"a": [MASK, 1234, True]}


def test_values_of_secrets() -> None:
    config = {"auths": {"registry.example": {"username": "robot", "password": "Zx81Zx82Zx83Zx84"}}}
    secret = {
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": encoded(json.dumps(config)), "file": encoded(f"a: b\nkey = {HF}\n")},
    }
    found = secret_values(secret)
    assert {"Zx81Zx82Zx83Zx84", HF, json.dumps(config)} <= found
    assert "registry.example" not in found
    account = {"ca.crt": "x" * 20, "namespace": "inference", "token": "abcdefghijkl"}
    secret = {"type": "kubernetes.io/service-account-token", "data": {k: encoded(v) for k, v in account.items()}}
    assert secret_values(secret) == {"abcdefghijkl"}
    certificate = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----"
    assert secret_values({"type": "kubernetes.io/tls", "data": {"tls.crt": encoded(certificate)}}) == set()
    assert secret_values({"data": None}) == set()


@pytest.mark.parametrize(
    ("value", "opaque"),
    [
        (HF, True), ("Zx81Zx82Zx83", True), ("abcdefghij1234567890", True),
        ("7f9c2d1e-1b2c-4d3e-8f90-123456789abc", True),
        ("kubernetes", False), ("qwen3-32b-sglang", False), ("Qwen/Qwen3", False), ("v1.35.4", False),
        ("a sentence with 1 digit", False), ("123456789012", False), ("docker.io/a/b:1", False),
    ],
)  # fmt: skip
def test_what_can_be_looked_for_everywhere(value: str, opaque: bool) -> None:
    assert is_opaque(value) is opaque


def test_forms_are_long_enough_to_mean_something() -> None:
    assert all(len(form) >= 8 for form in forms("abcdefgh"))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "token" * 60_000,
        "A1b2" * 75_000 + "\n",
        ("MIIEpAIBAAKCAQEA" * 4 + "\n") * 5_000,
        'token="' * 40_000,
        "-----BEGIN PRIVATE KEY" * 10_000,
        "http://" * 40_000,
        "password=\\\\\\\\" * 20_000,
        "eyJ" * 100_000,
        "- --api-key\n" * 20_000,
        " " * 300_000,
        "name: HF_TOKEN\n" * 20_000,
        "[" * 100_000,
    ],
    ids=lambda text: text[:20].strip(),
)
def test_odd_texts_take_no_time(text: str) -> None:
    start = time.monotonic()
    Redactor([WORD]).text(text)
    assert time.monotonic() - start < 10
