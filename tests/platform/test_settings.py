"""Settings come from the environment, each under one name, and a wrong one is named as it was written."""

import pytest
from pydantic import SecretStr

from standpipe.platform.errors import SettingsError
from standpipe.platform.settings import fields_of, load, require, values_of
from standpipe.wiring import secret_texts


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, _ in fields_of():
        monkeypatch.delenv(f"STANDPIPE_{name.upper()}", raising=False)


def test_a_group_is_read_from_flat_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDPIPE_MPESA_CONSUMER_KEY", "key")
    monkeypatch.setenv("STANDPIPE_MPESA_CALLBACK_SECRETS", f"{'a' * 32}, {'b' * 32}")
    monkeypatch.setenv("STANDPIPE_DTLS_MAX_HANDSHAKES_PER_HOST", "7")
    monkeypatch.setenv("STANDPIPE_KEYPAD_VENDING_KEYS", '{"123457:1": "00"}')
    monkeypatch.setenv("STANDPIPE_LOG_LEVEL", "DEBUG")
    settings = load()
    assert settings.mpesa.consumer_key == SecretStr("key")
    assert [secret.get_secret_value() for secret in settings.mpesa.callback_secrets] == ["a" * 32, "b" * 32]
    assert settings.dtls.max_handshakes_per_host == 7
    assert settings.dtls.max_handshakes == 1_000
    assert settings.keypad.vending_keys == {"123457:1": SecretStr("00")}
    assert settings.log_level == "DEBUG"
    assert {"key", "00", "a" * 32} <= set(secret_texts(settings)), "no log line shows what stands in a group"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STANDPIPE_COAP_ACK_TIMEOUT_S", "soon"),
        ("STANDPIPE_MPESA_CALLBACK_SECRETS", "short"),
        ("STANDPIPE_MOMO_NETWORKS", "10.0.0.0/8,nowhere"),
        ("STANDPIPE_HTTP_PORT", "70000"),
        ("STANDPIPE_TRUSTED_PROXIES", "nowhere"),
        ("STANDPIPE_MIN_APP_VERSIONS", '{"SYMBIAN": "1.0"}'),
    ],
)
def test_a_wrong_one_is_named_as_it_was_written(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert all(line.startswith(f"{name}: ") for line in caught.value.lines)


def test_a_missing_one_is_named_with_what_it_is_for() -> None:
    with pytest.raises(SettingsError, match="STANDPIPE_DLMS_PORT is not set: TCP port on which DLMS meters dial in"):
        require(load(), "dlms_port", "dlms_host")


def test_names_are_one_setting_each() -> None:
    names = [name for name, _ in fields_of()]
    assert len(set(names)) == len(names) > 100
    assert names == [name for name, _ in values_of(load())]
