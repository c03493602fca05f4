"""`Article.embedding`: the searches over a mapped class, and its mapped chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from psycopg.types.json import Jsonb
from sqlalchemy import Table, inspect

from pgembed._client.arguments import check_names, checked, timeout_of
from pgembed._client.describe import takes
from pgembed._client.values import check_image, check_int, check_query, vector_text
from pgembed.errors import DimensionMismatch, InvalidParameter, InvalidQuery
from pgembed.options import (
    ORMHybridSearchOptions,
    ORMSimilarOptions,
    ORMVectorSearchOptions,
    WordOptions,
)
from pgembed.sqlalchemy.hits import BM25Hit, HybridHit, VectorHit
from pgembed.sqlalchemy.search import (
    Call,
    Search,
    class_criterion,
    json_option,
    key_option,
    option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.elements import ColumnElement

    from pgembed.options import Vector
    from pgembed.sqlalchemy.chunks import EmbeddingChunk
    from pgembed.sqlalchemy.declare import Bound
    from pgembed.sqlalchemy.options import Declaration

T = TypeVar("T")

_OF_THE_CALL = ("query_embedding", "query_model")


class BM25Of(Generic[T]):
    """A BM25 index as seen from a mapped class.

    Attributes:
        declaration: What it is declared with.
        table: The table that it is on.
    """

    def __init__(self, bound: Bound, entity: type[T]) -> None:
        self._bound = bound
        self._entity = entity
        self.declaration: Declaration = bound.declaration
        self.table: Table = bound.source

    def __repr__(self) -> str:
        return f"<{self.declaration.kind} {self.name!r} of {self._entity.__name__}>"

    @property
    def name(self) -> str:
        """Name of the index; of the embedding, and of its side table."""
        return self.declaration.name

    @takes(WordOptions)
    def bm25_search(
        self,
        query: str,
        k: int | None = None,
        *,
        name: str = "pgembed_hit",
        **options: Unpack[WordOptions],
    ) -> Search[T, BM25Hit]:
        """Search for the rows that have the words of a query.

        Args:
            query: Words.
            k: As in `vector_search`.
            name: Of the search inside the statement.

        Raises:
            InvalidQuery: The words are empty.
            InvalidParameter: An option is out of its range.
        """
        check_names("bm25_search", options, WordOptions)
        return self._search(
            BM25Hit, "bm25_search", k, options, name=name, query=check_query(query)
        )

    def _search(
        self,
        hit: type[Any],
        function: str,
        k: int | None,
        options: Mapping[str, Any],
        **call: Any,
    ) -> Search[T, Any]:
        arguments: dict[str, ColumnElement[Any]] = {}
        given = checked({n: v for n, v in options.items() if n not in _OF_THE_CALL})
        for name, value in given.items():
            # What is the default anyway is left out: one statement for more searches.
            if value is False or (name == "offset" and value == 0):
                continue
            arguments[name] = _written(value)
        mapper: Mapper[Any] = inspect(self._entity)
        criterion = class_criterion(mapper, self.table)
        return Search._of(
            Call(
                function=function,
                embedding=self.name,
                source=self.table,
                entity=self._entity,
                hit=hit,
                k=None if k is None else check_int(k, "k"),
                options=arguments,
                criteria=() if criterion is None else (criterion,),
                query_model=options.get("query_model"),
                encoder=options.get("encoder"),
                query_encoder=options.get("query_encoder"),
                timeout=timeout_of(options),
                **call,
            )
        )


class EmbeddingOf(BM25Of[T]):
    """An embedding as seen from a mapped class.

    Attributes:
        declaration: What it is declared with.
        table: The table that it is on.
    """

    @property
    def chunks(self) -> type[EmbeddingChunk]:
        """The mapped side table: `select(Article.embedding.chunks)`."""
        assert self._bound.chunks is not None
        return self._bound.chunks

    # Any: mypy takes an attribute of SQLAlchemy's for a descriptor here too, so that
    # selectinload() would be given a list.
    @property
    def chunks_of_row(self) -> Any:
        """The relationship: `selectinload(Article.embedding.chunks_of_row)`."""
        return getattr(self._entity, f"{self._bound.attribute}_chunks")

    @property
    def status_of_row(self) -> Any:
        """How each row stands: `undefer(Article.embedding.status_of_row)`.

        It is `embedded`, `pending`, `failed` or, for a row without text, `none`.
        """
        return getattr(self._entity, f"{self._bound.attribute}_status")

    @takes(ORMVectorSearchOptions)
    def vector_search(
        self,
        query: str | bytes | Vector,
        k: int | None = None,
        *,
        name: str = "pgembed_hit",
        **options: Unpack[ORMVectorSearchOptions],
    ) -> Search[T, VectorHit]:
        """Search for the rows that are nearest to a query.

        Args:
            query: Words, the bytes of an image file, or a vector.
            k: Number of rows, 1 to 10,000; None: as many as `limit()` and `offset()`
                say, or 10. `offset()` does what the option does, and counts rows of the
                result where conditions on the hit or on joined tables sort some out.
            name: Of the search inside the statement, where one has two.

        Raises:
            InvalidQuery: The words are empty, or the vector is no vector.
            DimensionMismatch: The vector is not as long as declared.
            InvalidParameter: An option is out of its range.
        """
        check_names("vector_search", options, ORMVectorSearchOptions)
        return self._search(
            VectorHit, "vector_search", k, options, name=name, **self._query(query)
        )

    @takes(ORMHybridSearchOptions)
    def hybrid_search(
        self,
        query: str,
        k: int | None = None,
        *,
        name: str = "pgembed_hit",
        **options: Unpack[ORMHybridSearchOptions],
    ) -> Search[T, HybridHit]:
        """Search by meaning and by words, and fuse the two rankings.

        Args:
            query: Words.
            k: As in `vector_search`.
            name: Of the search inside the statement.

        Raises:
            InvalidQuery: The words are empty, or the vector is no vector.
            DimensionMismatch: The vector is not as long as declared.
            InvalidParameter: An option is out of its range.
        """
        check_names("hybrid_search", options, ORMHybridSearchOptions)
        vector = options.get("query_embedding")
        return self._search(
            HybridHit,
            "hybrid_search",
            k,
            options,
            name=name,
            query=check_query(query),
            vector=None if vector is None else self._vector(vector),
        )

    @takes(ORMSimilarOptions)
    def similar(
        self,
        row: T | object,
        k: int | None = None,
        *,
        name: str = "pgembed_hit",
        **options: Unpack[ORMSimilarOptions],
    ) -> Search[T, VectorHit]:
        """Search for the rows most like a given one, which is left out.

        Args:
            row: A row that is in the database, or its primary key: a tuple where
                that is composite.
            k: As in `vector_search`.
            name: Of the search inside the statement.

        Raises:
            InvalidQuery: The row has no key yet.
            InvalidParameter: The key has another number of columns.
        """
        check_names("similar", options, ORMSimilarOptions)
        search = self._search(VectorHit, "similar", k, options, name=name)
        call = search._call
        arguments = {"key": key_option(self.table, self._key(row)), **call.options}
        return search._changed(options=arguments)

    def _query(self, query: str | bytes | Vector) -> dict[str, str | bytes]:
        if isinstance(query, str):
            return {"query": check_query(query)}
        if isinstance(query, bytes):
            return {"query": check_image(query)}
        return {"vector": self._vector(query)}

    def _vector(self, vector: Vector) -> str:
        text = vector_text(vector)
        length = text.count(",") + 1
        wanted = self.declaration.options["dimensions"]
        if wanted is not None and length < wanted:
            raise DimensionMismatch(
                f"the query vector has {length} dimensions, the embedding "
                f"{self.name!r} has {wanted}",
                hint="Encode the query with model "
                f"{self.declaration.options['model']!r}.",
            )
        return text

    def _key(self, row: Any) -> tuple[Any, ...]:
        columns = list(self.table.primary_key.columns)
        state = inspect(row, raiseerr=False)
        mapper: Mapper[Any] = inspect(self._entity)
        if isinstance(row, self._bound.mapper.class_) and state is not None:
            if state.key is None:
                raise InvalidQuery(
                    f"{row!r} is not in the database, so it has no vector",
                    hint="Commit it, and wait until it is embedded.",
                )
            by_column = dict(zip(mapper.primary_key, state.key[1], strict=True))
            if all(column in by_column for column in columns):
                return tuple(by_column[column] for column in columns)
            return tuple(state.key[1])
        key = row if isinstance(row, tuple) else (row,)
        if len(key) != len(columns) or any(part is None for part in key):
            raise InvalidParameter(
                f"{row!r} is no primary key of {self.table.name!r}",
                hint=f"Give ({', '.join(column.name for column in columns)}), or a "
                f"{self._entity.__name__}.",
            )
        return key


def _written(value: object) -> ColumnElement[Any]:
    if isinstance(value, Jsonb):
        assert value.dumps is not None
        return json_option(str(value.dumps(value.obj)))
    return option(value)
