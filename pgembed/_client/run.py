# Made by scripts/generate_client from pgembed/_client/arun.py.
"""Carry out flows on synchronous connections."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgembed._client.steps import (
    Beside,
    EndLook,
    Flow,
    IsIdle,
    Rows,
    Sleep,
    Statement,
    Step,
    Work,
    is_idle,
    second_connection_arguments,
    second_connection_error,
    translate,
)
from pgembed.errors import PgembedError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def run(conn: psycopg.Connection[Any], flow: Flow[T]) -> T:
    """Carry out a flow and return its result."""
    try:
        step = next(flow)
        while True:
            try:
                answer = _perform(conn, step)
            except PgembedError as exc:
                # The flow may know another way; else it comes back from here.
                step = flow.throw(exc)
            else:
                step = flow.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result


def _perform(conn: psycopg.Connection[Any], step: Step) -> object:
    answer: object = None
    match step:
        case Statement(alone=True):
            with _autocommit(conn):
                answer = _execute(conn, step)
        case Statement():
            answer = _execute(conn, step)
        case Beside():
            answer = _execute_beside(conn, step)
        case IsIdle():
            answer = is_idle(conn)
        case EndLook():
            conn.rollback()
        case Work():
            answer = step.call()
        case Sleep():
            time.sleep(step.seconds)
    return answer


def _execute(conn: psycopg.Connection[Any], statement: Statement) -> Rows:
    # A plain cursor: the connection's own may have other placeholders or rows.
    with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
        try:
            cursor.execute(
                statement.query, statement.parameters, prepare=statement.prepare
            )
            if not statement.returns_rows:
                return Rows([], [])
            # In pipeline mode the columns are known after the rows.
            rows = cursor.fetchall()
            return Rows([c.name for c in cursor.description or ()], rows)
        except psycopg.Error as exc:
            error = translate(exc, statement)
            if error is exc:
                raise
            raise error from exc


def _execute_beside(conn: psycopg.Connection[Any], step: Beside) -> Rows:
    try:
        second = psycopg.Connection.connect(
            **second_connection_arguments(conn, step.dsn)
        )
    except psycopg.Error as exc:
        raise second_connection_error(exc, step.dsn) from exc
    with second:
        return [_execute(second, statement) for statement in step.statements][-1]


@contextmanager
def _autocommit(conn: psycopg.Connection[Any]) -> Iterator[None]:
    before = conn.autocommit
    if not before:
        conn.set_autocommit(True)
    try:
        yield
    finally:
        if not before and not conn.closed:
            conn.set_autocommit(False)
