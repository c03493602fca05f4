"""History of pgembed's own schema; each revision only names files of `sql/`."""
