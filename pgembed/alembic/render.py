"""Operations as the lines of a migration."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from alembic.autogenerate.render import renderers

from pgembed.alembic.operations import KeepSchemaOp, PgembedOp

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

_WIDTH = 80  # characters of a line, without its indentation


@renderers.dispatch_for(PgembedOp)
def _render(autogen_context: AutogenContext, operation: PgembedOp) -> list[str]:
    prefix = autogen_context.opts.get("alembic_module_prefix") or ""
    arguments = [repr(value) for value in operation.positional]
    arguments += [f"{name}={value!r}" for name, value in operation.named.items()]
    call = f"{prefix}{operation.function}({', '.join(arguments)})"
    if len(call) > _WIDTH:
        inside = "".join(f"    {argument},\n" for argument in arguments)
        call = f"{prefix}{operation.function}(\n{inside})"
    return [*_comments(operation), call]


@renderers.dispatch_for(KeepSchemaOp)
def _render_nothing(
    _autogen_context: AutogenContext, operation: PgembedOp
) -> list[str]:
    return _comments(operation)


def _comments(operation: PgembedOp) -> list[str]:
    # The printer takes a line that ends with a colon for the head of a block.
    return [
        f"# {line.rstrip(':')}"
        for note in operation.notes
        for line in wrap(note, _WIDTH)
    ]
