"""The SQL that pgembed ships; see `pgembed.sqlfiles`."""
