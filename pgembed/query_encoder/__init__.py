"""Query encoders: token vectors that put a query where a model would put it.

Trained for one embedding, from the chunks and vectors that it has already, so that
PostgreSQL can encode queries by itself, in the space of any model.
"""
