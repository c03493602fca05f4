"""No connection string, however malformed, is echoed by any command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from pgembed import dsn
from pgembed.cli import app
from pgembed.demo.database import DemoDatabase
from pgembed.demo.demo import DemoOptions
from pgembed.errors import InvalidParameter, UnsupportedEnvironment
from pgembed.service import EncoderService
from pgembed.testing.servers import RunningServer
from tests.fixtures.cli import invoke

# Nobody listens on port 1. Every part of a password has this word in it.
SECRET = "Hush"
HOST = "127.0.0.1:1/db"
UNREADABLE = [
    f"postgresql://user:Hush%Hush@{HOST}",
    f"postgresql://user:Hush%00Hush@{HOST}",
    f"postgresql://user:Hush/Hush@{HOST}",
    f"postgresql://user:12/Hush@{HOST}",
    f"postgresql://user:/Hush@{HOST}",
    f"postgresql://user:Hush@Hush@{HOST}",
    f"postgresql://user:Hush@Hush/Hush@{HOST}",
    f"postgresql://user:Hush@@{HOST}",
    f"postgresql://user:Hush Hush@{HOST}",
    f"postgresql://user:Hush@Hush?Hush@{HOST}",
    f"postgresql://user:Hush/Hush?Hush@{HOST}",
    f"postgresql://user:Hush[Hush/@{HOST}",
    "postgresql://user:Hush",
    "postgresql://user:Hush/db",
    "postgresql://user:secret@host:Hush/db",
    "postgresql://user:secret@[Hush/db",
    "postgresql://user:secret@[::1]Hush/db",
    f"postgresql://user@{HOST}?passwort=Hush",
    f"postgresql://user@{HOST}?Hush",
    f"postgresql://user@{HOST}?Hush=1",
    f"postgresql://user@{HOST}?password=Hush&Hush",
    f"postgresql://user@{HOST}?password=Hush=Hush",
    f"postgresql+psycopg://user:Hush@{HOST}",
    f"postgresql+asyncpg://user:Hush@{HOST}?ssl=require",
    f"jdbc:postgresql://{HOST}?user=user&password=Hush",
    f"https://user:Hush@{HOST}",
    f"POSTGRESQL://user:Hush@{HOST}",
    f"postgresql:/user:Hush@{HOST}",
    f" postgresql://user:Hush@{HOST}",
    f"'postgresql://user:Hush@{HOST}'",
    f"dsn=postgresql://user:Hush@{HOST}",
    f"host=postgresql://user:Hush@{HOST}",
    f"dbname=postgresql://user:Hush@{HOST} host=127.0.0.1 port=1",
    "host=user:Hush@127.0.0.1 port=1",
    "host=127.0.0.1 port=1 password=Hush Hush",
    "host=127.0.0.1 port=1 password=Hush Hush=1",
    "host=127.0.0.1 port=1 password='Hush",
    "host=127.0.0.1 port=1 password='Hush'Hush'",
    "host=127.0.0.1 port=1 password='Hush' Hush",
    "host=127.0.0.1 port=Hush",
    "host=127.0.0.1 passwort=Hush",
    "Hush",
    "\udcffHush",
]
READABLE = [
    f"postgresql://user:Hush@{HOST}",
    f"postgresql://user:Hush%2FHush%40Hush@{HOST}",
    f"postgresql://user:Hush?Hush#Hush:Hush@{HOST}",
    f"postgresql://user:Hush%22%27%5C%0AHush@{HOST}",
    f"postgresql://user@{HOST}?password=Hush&application_name=a@b",
    f"postgres://user:Hush@{HOST}?sslmode=require&sslpassword=Hush",
    r"host=127.0.0.1 port=1 user=u password='Hush \'Hush\\ Hush'",
    "host=127.0.0.1 port=1 user=u password=Hush'Hush",
]
FINE = [
    "",
    "dbname=shop",
    "postgresql://",
    "postgresql:///shop",
    "postgresql:///shop?host=/run/postgresql&user=a@b",
    "postgresql://a%40b:p%40q@host/shop",
    "postgresql://host1:5432,host2:5433/shop?target_session_attrs=any",
    "postgresql://[::1]:5432/shop",
    "host=@abstract dbname=a@b",
    "service=shop password='a b'",
]


LOGS: list[list[str]] = [["--log-format", "json"], []]


def commands() -> Iterator[tuple[str, ...]]:
    """Every command that takes a connection string, with what else it needs."""
    found: Any = get_command(app)
    for name, command in found.commands.items():
        for words, one in (
            ((name, inner), nested)
            for inner, nested in getattr(command, "commands", {"": command}).items()
        ):
            if any("--dsn" in param.opts for param in one.params):
                # A file where one has to exist: this one does.
                needed = [
                    word
                    for param in one.params
                    if param.required
                    for word in (
                        [__file__]
                        if param.param_type_name == "argument"
                        else [param.opts[0], __file__]
                    )
                ]
                yield (*filter(None, words), *needed)


# Those that set up the log of their process would do it here.
COMMANDS = [words for words in commands() if words[0] not in ("serve", "fleet")]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("conninfo", UNREADABLE)
def test_what_cannot_be_read_is_refused_without_a_word_of_it(conninfo: str) -> None:
    with pytest.raises(InvalidParameter, match="cannot be read") as caught:
        dsn.check(conninfo)
    assert SECRET not in str(caught.value)
    # Nor does a traceback show the driver's message.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert caught.value.hint
    assert dsn.redact(str(caught.value)) == str(caught.value)


def test_a_null_character_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="NUL") as caught:
        dsn.check("dbname=x\0Hush")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("conninfo", [*READABLE, *FINE])
def test_what_can_be_read_is_taken(conninfo: str) -> None:
    assert dsn.check(conninfo) == conninfo
    assert SECRET not in dsn.shown(conninfo)


@pytest.mark.parametrize("conninfo", READABLE)
def test_a_connection_that_fails_does_not_tell_the_password(conninfo: str) -> None:
    with pytest.raises(UnsupportedEnvironment, match="cannot connect") as caught:
        dsn.connect(conninfo, connect_timeout=2)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert caught.value.__context__ is None


def test_the_commands_are_found() -> None:
    names = {words[0] for words in commands()}
    assert names >= {"install", "create", "bm25", "model", "search", "eval", "serve"}
    assert names >= {"status", "doctor", "demo", "version", "uninstall", "recall"}


def try_on(words: tuple[str, ...], conninfos: list[str], *, variable: bool) -> None:
    for conninfo in conninfos:
        options = [] if variable else ["--dsn", conninfo]
        environment = {"PGEMBED_DSN": conninfo} if variable else {}
        result = invoke([*words, *options], env=environment)
        assert result.exit_code in (1, 2), (conninfo, result.output)
        assert SECRET not in result.output, (words, conninfo)
        assert result.output.strip()


@pytest.mark.parametrize("position", range(len(COMMANDS)), ids=map(" ".join, COMMANDS))
def test_no_command_echoes_it(position: int) -> None:
    """Each command with some of the strings, and each string on many commands."""
    words = COMMANDS[position]
    few = slice(position % 5, None, 5)
    if words[0] == "demo":  # which does not read the variable, and makes databases
        try_on(words, UNREADABLE[few], variable=False)
        return
    try_on(words, [*UNREADABLE, *READABLE][few], variable=False)
    readable_there = [one for one in UNREADABLE if one.isascii()]
    try_on(words, readable_there[:: len(COMMANDS) // 2], variable=True)


def test_two_commands_echo_none_of_them() -> None:
    for words in (("install",), ("status",)):
        try_on(words, [*UNREADABLE, *READABLE], variable=False)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "DSN"],
        ["DSN"],
        ["bm25", "DSN"],
        ["status", "--dns=DSN"],
        ["status", "--dns", "DSN"],
        ["status", "-DSN"],
        ["sql", "--from", "DSN"],
        ["serve", "--batch-size", "DSN"],
        ["serve", "--log-format", "DSN"],
        ["create", "x", "y", "--dimensions", "DSN"],
    ],
)
def test_typed_in_the_wrong_place_it_is_not_echoed_either(words: list[str]) -> None:
    for conninfo in [*READABLE, f"postgresql://user:Hush Hush@{HOST}"]:
        typed = [word.replace("DSN", conninfo) for word in words]
        result = invoke(typed)
        assert result.exit_code in (1, 2)
        assert SECRET not in result.output, typed


@pytest.mark.parametrize(
    ("conninfo", "options", "debug"),
    [
        *((READABLE[0], options, debug) for options in LOGS for debug in ("", "1")),
        (UNREADABLE[0], [], ""),
        (UNREADABLE[2], *LOGS[:1], "1"),
        *((one, [], "1") for one in READABLE[1:4]),
    ],
)
def test_the_service_does_not_tell_it(
    conninfo: str, options: list[str], debug: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgembed", "serve", "--once", "--verbose", *options],
        env={**os.environ, "PGEMBED_DSN": conninfo, "PGEMBED_DEBUG": debug},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert ("cannot connect" in output) == (conninfo in READABLE)
    assert SECRET not in output


@pytest.mark.parametrize("kind", ["json", "console"])
def test_the_log_has_it_taken_out_wherever_it_comes_from(kind: str) -> None:
    program = f"""if True:
        import logging
        from pgembed.cli.logs import configure_logging
        secret = 'Hu"s\\'h\\\\ü'
        dsn = "host=h password='Hu\\"s\\\\'h\\\\\\\\ü'"
        configure_logging({kind!r}, dsn=dsn)
        from pgembed.events import events
        log = events('pgembed.service')
        log.info("event", error=f"it is {{secret}}!", other=3)
        logging.getLogger("library").warning("it is %s!", secret)
        try:
            raise ValueError(f"it is {{secret}}!")
        except ValueError:
            log.exception("crashed")
            logging.getLogger("library").exception("crashed")
        log.info("postgresql://user:Hush@host/db and password=Hush")
    """
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.replace("\\u2026", "…").count("it is …!") >= 4
    assert 'Hu"s' not in done.stderr
    assert 'Hu\\"s' not in done.stderr
    assert SECRET not in done.stderr
    assert "other" in done.stderr


def test_objects_do_not_show_it() -> None:
    conninfo = READABLE[0]
    for one in (
        EncoderService(conninfo),
        RunningServer(conninfo),
        DemoOptions(dsn=conninfo),
        DemoDatabase(conninfo, None, fresh=False),
    ):
        assert SECRET not in repr(one)
    assert SECRET not in DemoDatabase(conninfo, None, fresh=False).psql_command


@pytest.mark.parametrize("make", [EncoderService, RunningServer])
def test_objects_refuse_what_cannot_be_read(make: Any) -> None:
    with pytest.raises(InvalidParameter):
        make(UNREADABLE[0])


def test_common_words_stay_in_messages() -> None:
    """Who has no secret password does not get messages with holes instead."""
    conninfo = "user=shop password=shop host=db"
    assert dsn.redact('role "shop" on db', conninfo) == 'role "shop" on db'
    assert dsn.redact("pgembed is there", "password=pgembed") == "pgembed is there"
    assert dsn.redact("a cat", "password=a") == "… cat"
    assert dsn.redact("nothing", "password=''") == "nothing"


def test_messages_are_cleaned_without_knowing_the_string() -> None:
    said = "cannot use postgresql://user:Hu/s@h@host/db, password = 'Hush \\' x' port=1"
    assert dsn.redact(said) == "cannot use postgresql://…@host/db, password = …"
    assert dsn.redact("see https://example.com/a and a@b") == (
        "see https://example.com/a and a@b"
    )
