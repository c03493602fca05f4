#!/bin/sh
# Makes pgembed's roles and its schema in a new database; the schema is not the
# superuser's, so that the encoder service can be a member of its owner.
set -eu
unset PGHOST PGHOSTADDR
export PGUSER="$POSTGRES_USER" PGDATABASE="$POSTGRES_DB"
pgembed-roles
psql -X --quiet --no-password -v ON_ERROR_STOP=1 --output /dev/null \
    -c 'create extension if not exists vector' \
    -c 'set role pgembed_owner' \
    -f /usr/local/share/pgembed/pgembed.sql
