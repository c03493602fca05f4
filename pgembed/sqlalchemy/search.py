"""Searches as SELECT statements of (row, hit)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    and_,
    cast,
    column,
    func,
    inspect,
    literal,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB, array
from sqlalchemy.orm import aliased
from sqlalchemy.orm import join as orm_join
from sqlalchemy.sql import coercions, roles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.util import ClauseAdapter

from pgembed._client.arguments import DEFAULT_K, DEFAULT_TIMEOUT
from pgembed.errors import InvalidParameter
from pgembed.sqlalchemy.condition import reads, split, tables_of, where_sql
from pgembed.sqlalchemy.hits import RESULT_COLUMNS, HitBundle, column_types, hit_table
from pgembed.sqlalchemy.source import RowType
from pgembed.sqlalchemy.sqltext import identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.base import ReadOnlyColumnCollection
    from sqlalchemy.sql.elements import KeyedColumnElement
    from sqlalchemy.sql.selectable import CTE, TableClause

    from pgembed.encoders.base import Encoder

T = TypeVar("T")
H = TypeVar("H")


if TYPE_CHECKING:

    class _Select(Select[T, H]): ...

else:

    class _Select(Select):
        inherit_cache = True

        # SQLAlchemy 2.0 has one parameter here and 2.1 any number.
        def __class_getitem__(cls, _parameters):
            return cls


@dataclass(frozen=True, kw_only=True)
class Call:
    """A search, as it was asked for.

    Attributes:
        function: One of pgembed's search functions.
        embedding: Its name.
        source: The searched table.
        entity: The class of the results.
        hit: The class of what is said about them.
        query: Words to search for, or the bytes of an image file.
        vector: The query as pgvector writes it, instead or besides.
        query_model: Model, and weights, that made the vector.
        k: Number of results; None: as many as LIMIT and OFFSET ask for, or 10.
        options: Other arguments of the function.
        criteria: Conditions before the ranking.
        encoder: Encodes the words in this process; a string names a model.
        query_encoder: What encodes the words in the database.
        timeout: Longest wait for the encoder service, in seconds.
        name: Name of the search inside the statement.
    """

    function: str
    embedding: str
    source: Table
    entity: Any
    hit: type
    query: str | bytes | None = None
    vector: str | None = None
    query_model: str | None = None
    k: int | None = None
    options: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    criteria: tuple[ColumnElement[bool], ...] = ()
    encoder: Encoder | str | None = None
    query_encoder: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    name: str = "pgembed_hit"


class Search(_Select[T, H]):
    """A SELECT of (row, hit), best first: execute it as any other.

    Every method of `Select` works. `where()` is special: conditions on columns of the
    searched table, and those with subqueries (`exists()`, `any()`, `has()`), are met
    before the ranking, so that k rows come back whenever k rows match. Conditions on
    `search.hit` or on joined tables sort out afterwards.

    Without a `k`, `limit()` and `offset()` say how many rows are searched for.
    """

    inherit_cache = True
    _call: Call
    _hits: TableClause

    @classmethod
    def _of(cls, call: Call) -> Self:
        keys = list(call.source.primary_key.columns)
        hits = hit_table(call.hit, call.name, keys)
        found = cls(call.entity, HitBundle(call.hit, hits))
        found._call = call
        found._hits = hits
        mapper: Mapper[Any] = inspect(call.entity)
        own = _key_columns(mapper, call.source)
        joined = orm_join(
            hits,
            call.entity,
            and_(*(key == hits.c[f"key_{n}"] for n, key in enumerate(own, 1))),
        )
        found = found.select_from(joined).order_by(hits.c.rank)
        return found._with(call)

    @property
    def hit(self) -> ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]:
        """The columns of the hit, for conditions, sorting and results of your own."""
        return self._hits.c

    def where(self, *whereclause: Any) -> Self:
        """Add conditions; see the class for which come before the ranking."""
        inside: list[ColumnElement[bool]] = []
        outside: list[ColumnElement[bool]] = []
        for clause in whereclause:
            criterion = coercions.expect(roles.WhereHavingRole, clause)
            for part in split(criterion):
                before = self._before_ranking(part)
                if before is None:
                    outside.append(part)
                else:
                    inside.append(before)
        found = super().where(*outside)
        if not inside:
            return found
        call = found._call
        return found._with(replace(call, criteria=(*call.criteria, *inside)))

    def filter_by(self, **kwargs: Any) -> Self:
        """Add equalities of the searched class's attributes; of the last joined one."""
        if self._setup_joins:
            return super().filter_by(**kwargs)
        entity = self._call.entity
        return self.where(*(getattr(entity, n) == v for n, v in kwargs.items()))

    def limit(self, limit: Any) -> Self:
        """Give at most so many rows; without a `k`, search for so many."""
        found = super().limit(limit)
        return found._with(found._call)

    def offset(self, offset: Any) -> Self:
        """Leave out the first rows; without a `k`, search for more of them."""
        found = super().offset(offset)
        return found._with(found._call)

    def slice(self, start: int, stop: int) -> Self:
        """Give rows from `start` up to `stop`, which is not among them."""
        found = super().slice(start, stop)
        return found._with(found._call)

    def count_matches(self) -> Select[int]:
        """Count all rows that match, whatever `k`, limit and offset say.

        A search by words, alone or with vectors, counts the rows that have them; one by
        vectors needs a `min_similarity`, and compares all rows. Words that are to be
        compared by vectors need `encode_query` before.

        Raises:
            InvalidParameter: There is no number of such rows.
        """
        return _matches(self, "search_count", {}, {"search_count": BigInteger()})

    def facets(
        self,
        *columns: Any,
        max_values: int = 20,
        exclude_own_filter: bool = False,
    ) -> Select[str, Any, int]:
        """Count which values columns have among all rows that have the words.

        The rows of the result are (column, value, number of rows): the most frequent
        values of each column.

        Args:
            columns: Attributes of the searched class, or names of columns.
            max_values: Of each column at most so many values.
            exclude_own_filter: Leave out what the search's `filter` says of a column
                when that column is counted.

        Raises:
            InvalidParameter: The search is not by words.
        """
        names = [
            literal(c if isinstance(c, str) else c.expression.name, Text())
            for c in columns
        ]
        arguments: dict[str, Any] = {
            "columns": array(names, type_=Text()),
            "max_values": literal(max_values, Integer()),
            "exclude_own_filter": literal(exclude_own_filter, Boolean()),
        }
        returned = {"facet": Text(), "value": JSONB(), "count": BigInteger()}
        return _matches(self, "search_facets", arguments, returned)

    def _before_ranking(self, part: ColumnElement[bool]) -> ColumnElement[bool] | None:
        if part.__visit_name__ == "textclause" or reads(part, self._hits):
            return None
        tables, subqueries = tables_of(part)
        if tables == {self._call.source} or (not tables and subqueries):
            return part
        mapper: Mapper[Any] = inspect(self._call.entity)
        if tables and tables <= set(mapper.tables):
            return in_hierarchy(mapper, self._call.source, part)
        return None

    def _with(self, call: Call) -> Self:
        """Give a copy that makes another call."""
        found = self._generate()
        kept = [
            (cte, options)
            for cte, options in zip(
                found._independent_ctes, found._independent_ctes_opts, strict=True
            )
            if cte.name != call.name
        ]
        found._independent_ctes = tuple(cte for cte, _ in kept)
        found._independent_ctes_opts = tuple(options for _, options in kept)
        found._call = call
        return found.add_cte(_cte(call, self._wanted(found)))

    def _changed(self, **changes: Any) -> Self:
        return self._with(replace(self._call, **changes))

    @staticmethod
    def _wanted(statement: Search[Any, Any]) -> ColumnElement[Any]:
        k: Any = statement._call.k
        if k is None:
            limit, offset = statement._limit_clause, statement._offset_clause
            if limit is None:
                limit = literal(DEFAULT_K, Integer())
            # As parameters: the statement is the same for every page.
            return limit if offset is None else cast(limit + offset, Integer())
        return literal(k, Integer())


def _matches(
    search: Search[Any, Any],
    name: str,
    arguments: dict[str, ColumnElement[Any]],
    returned: Mapping[str, Any],
) -> Select[Any, Any, Any]:
    """Select from a function that is about all rows that match."""
    call = search._call
    by_words = call.function in ("bm25_search", "hybrid_search")
    if not by_words and (
        name != "search_count" or "min_similarity" not in call.options
    ):
        raise InvalidParameter(
            f"{call.function} finds all rows, one after the other",
            hint="Search by words; or count what is within a min_similarity.",
        )
    if call.function == "similar" or search.whereclause is not None:
        raise InvalidParameter(
            "rows that match are counted by a query, and by conditions on its table",
            hint="Leave out conditions on the hit and on joined tables.",
        )
    kept = ("syntax", "prefix", "config", "fuzzy") if by_words else ("min_similarity",)
    words = replace(call, vector=None, query_model=None) if by_words else call
    options = {n: v for n, v in call.options.items() if n in (*kept, "filter")}
    given = _arguments(replace(words, options=options)) | arguments
    columns = [column(column_name, type_) for column_name, type_ in returned.items()]
    found = (
        getattr(func.pgembed, name)(
            RowType(call.source),
            *(_argument(n).op("=>")(value) for n, value in given.items()),
        )
        .table_valued(*columns)
        .render_derived(name="m")
    )
    return select(*found.c)


def _cte(call: Call, k: ColumnElement[Any]) -> CTE:
    arguments = {"k": k, **_arguments(call)}
    types = column_types(call.hit)
    function = (
        getattr(func.pgembed, call.function)(
            RowType(call.source),
            *(_argument(name).op("=>")(value) for name, value in arguments.items()),
        )
        .table_valued(
            column("doc"),
            *(column(name, types[name]) for name in RESULT_COLUMNS[call.hit]),
            with_ordinality="rank",
        )
        .render_derived(name="h")
    )
    keys = [
        type_coerce(literal_column(f"(h.doc).{identifier(key.name)}"), key.type).label(
            f"key_{n}"
        )
        for n, key in enumerate(call.source.primary_key.columns, 1)
    ]
    found = {name: function.c[name] for name in types}
    if "offset" in call.options:
        found["rank"] = found["rank"] + call.options["offset"]
    columns = [type_coerce(found[name], types[name]).label(name) for name in types]
    return select(*keys, *columns).select_from(function).cte(call.name)


def _arguments(call: Call) -> dict[str, ColumnElement[Any]]:
    arguments: dict[str, ColumnElement[Any]] = {"embedding": _text(call)}
    if isinstance(call.query, str):
        arguments["query"] = literal(call.query, Text())
    elif call.query is not None and call.vector is None:
        arguments["query_image"] = literal(call.query, LargeBinary())
    if call.vector is not None:
        # As text: a driver may have been told to take pgvector's own objects.
        arguments["query_embedding"] = func.pgembed._vector(
            literal(call.vector, Text())
        )
    if call.query_model is not None:
        arguments["query_model"] = literal(call.query_model, Text())
    condition = where_sql(call.source, call.criteria)
    if condition is not None:
        arguments["where_sql"] = condition
    arguments |= call.options
    return arguments


def _argument(name: str) -> ColumnElement[Any]:
    # A reserved word.
    return literal_column(identifier(name) if name == "offset" else name)


def _text(call: Call) -> ColumnElement[str]:
    return literal(call.embedding, Text())


def option(value: Any) -> ColumnElement[Any]:
    """Write an argument of a search function."""
    types: dict[type, Any] = {
        bool: Boolean(),
        int: Integer(),
        float: Float(53),
        str: Text(),
    }
    written: ColumnElement[Any] = literal(value, types[type(value)])
    return written


def json_option(text: str) -> ColumnElement[Any]:
    """Write an argument that is JSON."""
    return cast(literal(text, Text()), JSONB())


def key_option(source: Table, key: tuple[Any, ...]) -> ColumnElement[Any]:
    """Write the key of a row, as `similar` reads it."""
    parts = [
        cast(literal(value, part.type), Text())
        for value, part in zip(key, source.primary_key.columns, strict=True)
    ]
    return parts[0] if len(parts) == 1 else array(parts)


def _key_columns(mapper: Mapper[Any], source: Table) -> list[Any]:
    """Find the mapped attributes of the searched table's key, in its order."""
    return [
        getattr(mapper.class_, mapper.get_property_by_column(key).key)
        for key in source.primary_key.columns
    ]


def in_hierarchy(
    mapper: Mapper[Any], source: Table, criterion: ColumnElement[bool] | None
) -> ColumnElement[bool]:
    """Write a condition over all tables of a class as one over the searched table."""
    other = aliased(mapper.class_, flat=True)
    selectable = inspect(other).selectable
    adapter = ClauseAdapter(selectable)
    same = [adapter.traverse(key) == key for key in source.primary_key.columns]
    found: Select[Any] = (
        select(literal_column("1")).select_from(selectable).where(*same)
    )
    if criterion is not None:
        found = found.where(adapter.traverse(criterion))
    return found.correlate(source).exists()


def class_criterion(mapper: Mapper[Any], source: Table) -> ColumnElement[bool] | None:
    """Write which rows of the searched table are of a class; None: all."""
    if mapper.inherits is None or mapper.concrete:
        return None
    if mapper.single and mapper.polymorphic_on is not None:
        identities = [one.polymorphic_identity for one in mapper.self_and_descendants]
        criterion: ColumnElement[bool] = mapper.polymorphic_on.in_(identities)
        if mapper.polymorphic_on.table is source:
            return criterion
        return in_hierarchy(mapper, source, criterion)
    if mapper.local_table is source:
        return None
    return in_hierarchy(mapper, source, None)
