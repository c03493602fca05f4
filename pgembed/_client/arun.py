"""Carry out flows on asynchronous connections."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
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
    from collections.abc import AsyncIterator

T = TypeVar("T")


async def arun(conn: psycopg.AsyncConnection[Any], flow: Flow[T]) -> T:
    """Carry out a flow and return its result."""
    try:
        step = next(flow)
        while True:
            try:
                answer = await _perform(conn, step)
            except PgembedError as exc:
                # The flow may know another way; else it comes back from here.
                step = flow.throw(exc)
            else:
                step = flow.send(answer)
    except StopIteration as done:
        result: T = done.value
        return result


async def _perform(conn: psycopg.AsyncConnection[Any], step: Step) -> object:
    answer: object = None
    match step:
        case Statement(alone=True):
            async with _autocommit(conn):
                answer = await _execute(conn, step)
        case Statement():
            answer = await _execute(conn, step)
        case Beside():
            answer = await _execute_beside(conn, step)
        case IsIdle():
            answer = is_idle(conn)
        case EndLook():
            await conn.rollback()
        case Work():
            answer = await asyncio.to_thread(step.call)
        case Sleep():
            await asyncio.sleep(step.seconds)
    return answer


async def _execute(conn: psycopg.AsyncConnection[Any], statement: Statement) -> Rows:
    # A plain cursor: the connection's own may have other placeholders or rows.
    async with psycopg.AsyncCursor(conn, row_factory=tuple_row) as cursor:
        try:
            await cursor.execute(
                statement.query, statement.parameters, prepare=statement.prepare
            )
            if not statement.returns_rows:
                return Rows([], [])
            # In pipeline mode the columns are known after the rows.
            rows = await cursor.fetchall()
            return Rows([c.name for c in cursor.description or ()], rows)
        except psycopg.Error as exc:
            error = translate(exc, statement)
            if error is exc:
                raise
            raise error from exc


async def _execute_beside(conn: psycopg.AsyncConnection[Any], step: Beside) -> Rows:
    try:
        second = await psycopg.AsyncConnection.connect(
            **second_connection_arguments(conn, step.dsn)
        )
    except psycopg.Error as exc:
        raise second_connection_error(exc, step.dsn) from exc
    async with second:
        return [await _execute(second, statement) for statement in step.statements][-1]


@asynccontextmanager
async def _autocommit(conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    before = conn.autocommit
    if not before:
        await conn.set_autocommit(True)
    try:
        yield
    finally:
        if not before and not conn.closed:
            await conn.set_autocommit(False)
