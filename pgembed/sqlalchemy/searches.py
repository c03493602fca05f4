"""`Article.embedding`: the searches over a mapped class, and its mapped chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from sqlalchemy import Table, inspect

from pgembed._client.values import (
    check_int,
    check_number,
    check_query,
    check_seconds,
    filter_json,
    vector_text,
)
from pgembed.errors import DimensionMismatch, InvalidParameter, InvalidQuery
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
    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.elements import ColumnElement

    from pgembed._client.values import Filter, Vector
    from pgembed.encoders.base import Encoder
    from pgembed.sqlalchemy.chunks import EmbeddingChunk
    from pgembed.sqlalchemy.declare import Bound
    from pgembed.sqlalchemy.options import Declaration

T = TypeVar("T")


class EmbeddingOf(Generic[T]):
    """An embedding as seen from a mapped class.

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
        return f"<embedding {self.name!r} of {self._entity.__name__}>"

    @property
    def name(self) -> str:
        """Name of the embedding, and of its side table."""
        return self.declaration.name

    @property
    def chunks(self) -> type[EmbeddingChunk]:
        """The mapped side table: `select(Article.embedding.chunks)`."""
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

    def vector_search(
        self,
        query: str | Vector,
        k: int | None = None,
        *,
        offset: int = 0,
        min_similarity: float | None = None,
        filter: Filter | None = None,
        encoder: Encoder | str | None = None,
        query_model: str | None = None,
        ef_search: int | None = None,
        exact: bool = False,
        timeout_s: float = 10.0,
        name: str = "pgembed_hit",
    ) -> Search[T, VectorHit]:
        """Search for the rows that are nearest to a query.

        Args:
            query: Words, or their vector.
            k: Number of rows, 1 to 10,000; None: as many as `limit()` and `offset()`
                say, or 10.
            offset: Rows of the ranking to leave out, up to 10,000. `offset()` does the
                same, and counts rows of the result where conditions on the hit or on
                joined tables sort some out.
            min_similarity: Leave out what is less similar.
            filter: Conditions on columns as data, safe to build from user input.
            encoder: Encodes the words in this process, when the statement is
                executed: an encoder, or the name of a registered model. Without one
                the encoder service does it.
            query_model: The model that made a vector, to be checked.
            ef_search: How far the index looks, 1 to 1,000.
            exact: Compare with every row instead of using the index.
            timeout_s: Longest wait for the encoder service, in seconds.
            name: Of the search inside the statement, where one has two.

        Raises:
            InvalidQuery: The words are empty, or the vector is no vector.
            DimensionMismatch: The vector is not as long as declared.
            InvalidParameter: An option is out of its range.
        """
        options = {
            **_page(offset, min_similarity=min_similarity),
            "ef_search": _whole(ef_search, "ef_search"),
            "exact": True if exact else None,
        }
        return self._search(
            VectorHit,
            "vector_search",
            k,
            filter,
            options,
            **self._query(query),
            query_model=query_model,
            encoder=encoder,
            timeout_s=check_seconds(timeout_s, "timeout_s"),
            name=name,
        )

    def bm25_search(
        self,
        query: str,
        k: int | None = None,
        *,
        offset: int = 0,
        min_score: float | None = None,
        filter: Filter | None = None,
        syntax: Literal["words", "websearch"] | None = None,
        prefix: bool = False,
        config: str | None = None,
        snippets: bool = False,
        fuzzy: bool = False,
        explain: bool = False,
        boost: str | None = None,
        name: str = "pgembed_hit",
    ) -> Search[T, BM25Hit]:
        """Search for the rows that have the words of a query.

        Args:
            query: Words.
            k: As in `vector_search`, and so are `offset`, `filter` and `name`.
            offset: Rows of the ranking to leave out.
            min_score: Leave out what has a lower score.
            filter: Conditions on columns as data.
            syntax: `words`, or `websearch` for quotes, OR and minus signs.
            prefix: The last word may go on.
            config: Text search configuration of the query.
            snippets: Give the text around the words.
            fuzzy: Read words that no row has as the likeliest ones that rows have.
            explain: Tell with each hit what its score is made of.
            boost: A number in SQL, with the row as `s`, by which scores are
                multiplied. Never build it from user input.
            name: Of the search inside the statement.

        Raises:
            InvalidQuery: The words are empty.
            InvalidParameter: An option is out of its range.
        """
        options = {
            **_page(offset, min_score=min_score),
            "syntax": syntax,
            "prefix": True if prefix else None,
            "config": config,
            "snippets": True if snippets else None,
            "fuzzy": True if fuzzy else None,
            "explain": True if explain else None,
            "boost": boost,
        }
        words = check_query(query)
        return self._search(
            BM25Hit, "bm25_search", k, filter, options, query=words, name=name
        )

    def hybrid_search(
        self,
        query: str,
        k: int | None = None,
        *,
        offset: int = 0,
        min_score: float | None = None,
        min_similarity: float | None = None,
        query_embedding: Vector | None = None,
        filter: Filter | None = None,
        fusion: Literal["rrf", "minmax", "distribution"] | None = None,
        vector_weight: float | None = None,
        bm25_weight: float | None = None,
        rrf_k: int | None = None,
        candidates: int | None = None,
        syntax: Literal["words", "websearch"] | None = None,
        prefix: bool = False,
        config: str | None = None,
        snippets: bool = False,
        fuzzy: bool = False,
        explain: bool = False,
        boost: str | None = None,
        ef_search: int | None = None,
        on_missing_query_embedding: Literal["error", "bm25"] | None = None,
        encoder: Encoder | str | None = None,
        query_model: str | None = None,
        timeout_s: float = 10.0,
        name: str = "pgembed_hit",
    ) -> Search[T, HybridHit]:
        """Search by meaning and by words, and fuse the two rankings.

        Args:
            query: Words.
            k: As in `vector_search`, and so are the others of the same name.
            offset: Rows of the ranking to leave out.
            min_score: Leave out what has a lower fused score.
            min_similarity: Leave out of the vector search what is less similar.
            query_embedding: The vector of the words, where it is at hand.
            filter: Conditions on columns as data.
            fusion: `rrf`, `minmax` or `distribution`.
            vector_weight: Weight of the vector search; 1.
            bm25_weight: Weight of the word search; 1.
            rrf_k: Constant of reciprocal rank fusion; 20.
            candidates: Rows that each search gives to the fusion.
            syntax: As in `bm25_search`, and so are the next four.
            prefix: The last word may go on.
            config: Text search configuration of the query.
            snippets: Give the text around the words.
            fuzzy: Read words that no row has as the likeliest ones that rows have.
            explain: Tell with each hit what its score is made of.
            boost: A number in SQL, with the row as `s`, by which scores are
                multiplied. Never build it from user input.
            ef_search: How far the index looks.
            on_missing_query_embedding: `bm25`: search by words alone when no service
                has encoded the query in time.
            encoder: Encodes the words in this process.
            query_model: The model that made `query_embedding`.
            timeout_s: Longest wait for the encoder service, in seconds.
            name: Of the search inside the statement.

        Raises:
            InvalidQuery: The words are empty, or the vector is no vector.
            DimensionMismatch: The vector is not as long as declared.
            InvalidParameter: An option is out of its range.
        """
        options = {
            **_page(offset, min_score=min_score, min_similarity=min_similarity),
            "fusion": fusion,
            "vector_weight": None if vector_weight is None else float(vector_weight),
            "bm25_weight": None if bm25_weight is None else float(bm25_weight),
            "rrf_k": _whole(rrf_k, "rrf_k"),
            "candidates": _whole(candidates, "candidates"),
            "syntax": syntax,
            "prefix": True if prefix else None,
            "config": config,
            "snippets": True if snippets else None,
            "fuzzy": True if fuzzy else None,
            "explain": True if explain else None,
            "boost": boost,
            "ef_search": _whole(ef_search, "ef_search"),
            "on_missing_query_embedding": on_missing_query_embedding,
        }
        vector = None if query_embedding is None else self._vector(query_embedding)
        return self._search(
            HybridHit,
            "hybrid_search",
            k,
            filter,
            options,
            query=check_query(query),
            vector=vector,
            query_model=query_model,
            encoder=encoder,
            timeout_s=check_seconds(timeout_s, "timeout_s"),
            name=name,
        )

    def similar(
        self,
        row: T | object,
        k: int | None = None,
        *,
        offset: int = 0,
        min_similarity: float | None = None,
        filter: Filter | None = None,
        name: str = "pgembed_hit",
    ) -> Search[T, VectorHit]:
        """Search for the rows most like a given one, which is left out.

        Args:
            row: A row that is in the database, or its primary key: a tuple where
                that is composite.
            k: As in `vector_search`, and so are the others.
            offset: Rows of the ranking to leave out.
            min_similarity: Leave out what is less similar.
            filter: Conditions on columns as data.
            name: Of the search inside the statement.

        Raises:
            InvalidQuery: The row has no key yet.
            InvalidParameter: The key has another number of columns.
        """
        options = _page(offset, min_similarity=min_similarity)
        search = self._search(VectorHit, "similar", k, filter, options, name=name)
        call = search._call
        arguments = {"key": key_option(self.table, self._key(row)), **call.options}
        return search._changed(options=arguments)

    def _search(
        self,
        hit: type[Any],
        function: str,
        k: int | None,
        filter: Filter | None,
        options: dict[str, Any],
        **call: Any,
    ) -> Search[T, Any]:
        arguments: dict[str, ColumnElement[Any]] = {}
        for name, value in options.items():
            written = option(value)
            if written is not None:
                arguments[name] = written
        wrapped = filter_json(filter)
        if wrapped is not None:
            assert wrapped.dumps is not None
            arguments["filter"] = json_option(str(wrapped.dumps(wrapped.obj)))
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
                **call,
            )
        )

    def _query(self, query: str | Vector) -> dict[str, str]:
        if isinstance(query, str):
            return {"query": check_query(query)}
        return {"vector": self._vector(query)}

    def _vector(self, vector: Vector) -> str:
        text = vector_text(vector)
        length = text.count(",") + 1
        wanted = self.declaration.dimensions
        if wanted is not None and length < wanted:
            raise DimensionMismatch(
                f"the query vector has {length} dimensions, the embedding "
                f"{self.name!r} has {wanted}",
                hint=f"Encode the query with model {self.declaration.model!r}.",
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


def _page(offset: int, **thresholds: float | None) -> dict[str, int | float | None]:
    """Give the arguments that say which part of the ranking is wanted."""
    least = {
        name: None if value is None else check_number(value, name)
        for name, value in thresholds.items()
    }
    return {"offset": check_int(offset, "offset", 0) or None, **least}


def _whole(value: int | None, what: str) -> int | None:
    return None if value is None else check_int(value, what)
