from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from pgembed.errors import InvalidParameter
from pgembed.settings import Settings


def test_from_env_without_variables_gives_the_defaults() -> None:
    assert Settings.from_env(environ={}) == Settings()


def test_from_env_reads_each_type() -> None:
    settings = Settings.from_env(
        environ={
            "PGEMBED_DEVICE": "cuda:1",
            "PGEMBED_HALF_PRECISION": "off",
            "PGEMBED_BATCH_TOKENS": "4096",
            "PGEMBED_REQUEST_TIMEOUT_SECONDS": "2.5",
        }
    )
    assert settings.device == "cuda:1"
    assert settings.half_precision is False
    assert settings.batch_tokens == 4096
    assert settings.request_timeout_seconds == 2.5


def test_from_env_takes_an_empty_variable_for_a_missing_one() -> None:
    assert Settings.from_env(environ={"PGEMBED_DEVICE": " "}).device is None


def test_from_env_reads_the_process_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTHER_DEVICE", "mps")
    assert Settings.from_env("OTHER_").device == "mps"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGEMBED_HALF_PRECISION", "maybe"),
        ("PGEMBED_BATCH_TOKENS", "many"),
        ("PGEMBED_BATCH_TOKENS", "0"),
        ("PGEMBED_BATCH_TOKENS", "1.5"),
        ("PGEMBED_REQUEST_TIMEOUT_SECONDS", "nan"),
        ("PGEMBED_REQUEST_TIMEOUT_SECONDS", "-1"),
        ("PGEMBED_REQUEST_TIMEOUT_SECONDS", "soon"),
    ],
)
def test_from_env_names_the_variable_of_a_bad_value(variable: str, value: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Settings.from_env(environ={variable: value})
    assert variable in str(caught.value)
    assert repr(value) in str(caught.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().device = "cpu"  # type: ignore[misc]
