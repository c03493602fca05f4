"""pgembed's history for an application's Alembic: `depends_on = "pgembed_0001"`.

Named in `version_locations`, these revisions become part of the application's own
history, on a branch of their own called `pgembed`. Each brings the schema to the
version of the library that is installed, so that `pgembed upgrade` and a migration
come to the same; the names say which version of the schema is wanted at least.
"""
