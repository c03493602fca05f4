"""Alembic's environment for pgembed's own schema; driven by `pgembed.schema`.

One transaction holds the checks, the revisions and all functions, so a failure
leaves the database as it was. The same calls print the script of `pgembed sql`.
"""

from __future__ import annotations

from alembic import context

from pgembed import rawsql, sqlfiles
from pgembed.schema import SCHEMA_COMMENT, VERSION_TABLE, VERSION_TABLE_COMMENT

_options = context.config.attributes

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        output_buffer=_options["output"],
        version_table=VERSION_TABLE,
        version_table_schema="pgembed",
    )
else:
    context.configure(
        connection=_options["connection"],
        version_table=VERSION_TABLE,
        version_table_schema="pgembed",
    )

with context.begin_transaction():
    rawsql.run_file(sqlfiles.load("preflight.sql"))
    for guard in _options["guards"]:
        rawsql.run(guard)
    context.run_migrations()
    for file in sqlfiles.renewal():
        rawsql.run_file(file)
    rawsql.run(f"comment on table pgembed.{VERSION_TABLE} is '{VERSION_TABLE_COMMENT}'")
    rawsql.run(f"comment on schema pgembed is '{SCHEMA_COMMENT}'")
