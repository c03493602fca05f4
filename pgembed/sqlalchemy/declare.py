"""`Embedding` and `BM25Index`: attributes of a mapped class that declare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Unpack, overload
from weakref import WeakKeyDictionary

from sqlalchemy import Table, event, inspect
from sqlalchemy.orm import Mapper

from pgembed._client.arguments import check_names
from pgembed.errors import EmbeddingExists, InvalidParameter, InvalidSource
from pgembed.options import (
    BM25,
    CHOICES,
    HNSW,
    DeclaredOptions,
    VectorIndex,
    index_arguments,
    set_fields,
)
from pgembed.sqlalchemy.chunks import EmbeddingChunk, map_chunks
from pgembed.sqlalchemy.ddl import follow
from pgembed.sqlalchemy.execution import DECLARING
from pgembed.sqlalchemy.expression import Expression, expression_text
from pgembed.sqlalchemy.options import Declaration, Kind
from pgembed.sqlalchemy.searches import BM25Of, EmbeddingOf
from pgembed.sqlalchemy.status import map_status

if TYPE_CHECKING:
    from typing import Literal

    from sqlalchemy import MetaData

T = TypeVar("T")

#: Where a table's declarations are, by name, in `Table.info`.
INFO_KEY = "pgembed.embeddings"


class _Declarations(dict[str, Declaration]):
    """Declarations of a table; without them in migrations, which print `Table.info`."""

    def __repr__(self) -> str:
        return "{}"


@dataclass(frozen=True, eq=False)
class Bound:
    """What is declared over its table, and the mapped chunks of an embedding."""

    declaration: Declaration
    source: Table
    mapper: Mapper[Any]
    attribute: str
    chunks: type[EmbeddingChunk] | None


class RowEmbedding:
    """The embedding of one row: `article.embedding`.

    Attributes:
        chunks: The row's chunks in order, loaded like any relationship.
        status: How it stands.
    """

    def __init__(self, row: object, bound: Bound) -> None:
        self._row = row
        self._bound = bound

    @property
    def chunks(self) -> list[EmbeddingChunk]:
        """The row's chunks, in order."""
        found: list[EmbeddingChunk] = getattr(
            self._row, f"{self._bound.attribute}_chunks"
        )
        return found

    @property
    def status(self) -> Literal["embedded", "pending", "failed", "none"]:
        """How it stands, as of when it was loaded; none: the row has no text.

        The same as `article.embedding_status`. It reads pgembed's queue, so it takes
        the rights of pgembed's owner.
        """
        found: Literal["embedded", "pending", "failed", "none"] = getattr(
            self._row, f"{self._bound.attribute}_status"
        )
        return found


class Declared:
    """What an attribute of a mapped class declares over the text of its rows."""

    kind: ClassVar[Kind]

    def __init__(
        self, expression: Expression, name: str | None, options: dict[str, Any]
    ) -> None:
        self._expression = expression
        self._name = name
        self._options = options
        self._attribute: str | None = None
        self._bound: WeakKeyDictionary[Mapper[Any], Bound] = WeakKeyDictionary()

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name

    def declare(self, table: Table, mapped_class: type | None = None) -> Declaration:
        """Register what is declared over a table, mapped or not.

        Raises:
            InvalidSource: The table has no primary key.
            InvalidExpression: The text expression does not fit it.
            EmbeddingExists: The metadata has one of this name in the table's schema
                already.
        """
        if not table.primary_key.columns:
            raise InvalidSource(
                f"table {table.name!r} has no primary key, so its rows cannot have "
                "an embedding, or BM25",
                hint="Vectors and words are tied to their rows by the primary key: "
                "add one.",
            )
        declaration = Declaration(
            name=self._name or f"{table.name}_{self._attribute or self.kind}",
            text_expression=expression_text(self._expression, table, mapped_class),
            given=self._options,
            kind=self.kind,
        )
        length = len(declaration.name.encode())
        if not 0 < length <= 63:
            raise InvalidParameter(
                f"the name of an embedding has 1 to 63 bytes, not {length}: "
                f"{declaration.name!r}",
                hint="Give a shorter one: name='...'.",
            )
        for other, declarations in _declarations(table.metadata):
            if declaration.name in declarations and other.schema == table.schema:
                raise EmbeddingExists(
                    f"there are two embeddings {declaration.name!r}, on tables "
                    f"{other.fullname!r} and {table.fullname!r}",
                    hint="Give one of them another name: name='...'.",
                )
        declared = table.info.setdefault(INFO_KEY, _Declarations())
        chosen = [
            one.name
            for one in (*declared.values(), declaration)
            if one.is_default and one.kind == self.kind
        ]
        if declaration.is_default and len(set(chosen)) > 1:
            raise InvalidParameter(
                f"{' and '.join(map(repr, chosen))} are both the default of table "
                f"{table.fullname!r}",
                hint="Declare one of them with is_default=True.",
            )
        declared[declaration.name] = declaration
        follow(table, declaration)
        return declaration

    def bind(self, mapper: Mapper[Any]) -> Bound:
        """Put what is declared on the class that declares it, once."""
        mapper = self._declaring(mapper)
        bound = self._bound.get(mapper)
        if bound is None:
            table = mapper.local_table
            name = mapper.class_.__name__
            if not isinstance(table, Table):
                raise InvalidSource(
                    f"{name} is not mapped to a table, so its rows cannot have an "
                    "embedding",
                    hint="Declare it on the class of the table itself.",
                )
            attribute = self._attribute or self.kind
            declaration = self.declare(table, mapper.class_)
            chunks = None
            if self.kind == "embedding":
                chunks = map_chunks(declaration, table, mapper, attribute)
                map_status(declaration, table, mapper, attribute)
                DECLARING.add(mapper)
            bound = Bound(declaration, table, mapper, attribute, chunks)
            self._bound[mapper] = bound
        return bound

    def _declaring(self, mapper: Mapper[Any]) -> Mapper[Any]:
        """Find the class whose table it is: subclasses share what they inherit."""
        found = mapper
        while found.inherits is not None and not found.concrete:
            if self not in _attributes(found.inherits.class_).values():
                break
            found = found.inherits
        return found


class Embedding(Declared):
    """Declares on a mapped class that its rows have an embedding.

        class Article(Base):
            __tablename__ = "article"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[str]
            body: Mapped[str]
            embedding = Embedding("title || ' ' || body")

    `Article.embedding` then has the searches and the mapped chunks;
    `article.embedding_chunks` are a row's chunks, and `article.embedding_status` says
    how it stands. `alembic revision --autogenerate` makes the embedding in the
    database.

    Args:
        expression: The text of a row: SQL over its columns, an expression of
            SQLAlchemy's, or a function from the class to one.
        index: `HNSW(...)`, `IVFFlat(...)` or None.
        bm25: `BM25(...)` or True: words are searched too; False: they are not. By
            default they are where the text is made of PostgreSQL's own functions.
        name: Of the embedding and its side table; `<table>_<attribute>`. It is unique
            in the schema of the table.
        options: As in `pgembed.create_embedding`; see
            `pgembed.options.DeclaredOptions`.

    Raises:
        InvalidParameter: An option is not possible.
    """

    kind = "embedding"

    def __init__(
        self,
        expression: Expression,
        *,
        index: VectorIndex = HNSW(),  # noqa: B008 - frozen
        bm25: BM25 | bool | None = None,
        name: str | None = None,
        **options: Unpack[DeclaredOptions],
    ) -> None:
        check_names("Embedding", options, DeclaredOptions)
        for option, possible in CHOICES.items():
            _one_of(option, options.get(option), (*possible, None))
        if options.get("column_name") and options.get("storage") != "column":
            raise InvalidParameter(
                "column_name goes with storage='column' only", hint="Leave it out."
            )
        kind, index_options = index_arguments(index)
        given = {
            **{option: value for option, value in options.items() if value is not None},
            "index": kind,
            "index_options": index_options,
            "bm25": True if isinstance(bm25, BM25) else bm25,
            "bm25_options": set_fields(bm25) if isinstance(bm25, BM25) else {},
        }
        super().__init__(expression, name, given)

    @overload
    def __get__(self, row: None, owner: type[T]) -> EmbeddingOf[T]: ...
    @overload
    def __get__(self, row: object, owner: type[T]) -> RowEmbedding: ...
    def __get__(self, row: object, owner: type[Any]) -> Any:
        """Give the searches on the class, the row's own embedding on a row."""
        mapper = inspect(owner, raiseerr=False)
        if not isinstance(mapper, Mapper):
            return self  # a mixin or an abstract base
        bound = self.bind(mapper)
        return EmbeddingOf(bound, owner) if row is None else RowEmbedding(row, bound)


class BM25Index(Declared):
    """Declares on a mapped class that its rows are found by words, without vectors.

        class Article(Base):
            __tablename__ = "article"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[str]
            body: Mapped[str]
            words = BM25Index("title || ' ' || body", BM25(config="english"))

    `Article.words.bm25_search("cheap flights")` then finds them. An `Embedding` has
    such an index by itself.

    Args:
        expression: The text of a row, as in `Embedding`.
        options: How its words are read and weighed.
        name: Of the index; `<table>_<attribute>`. It is unique in the schema of the
            table.
        is_default: Searches by words that name only the table use it.

    Raises:
        InvalidParameter: The options are none.
    """

    kind = "bm25"

    def __init__(
        self,
        expression: Expression,
        options: BM25 = BM25(),  # noqa: B008 - frozen
        *,
        name: str | None = None,
        is_default: bool = False,
    ) -> None:
        if not isinstance(options, BM25):
            raise InvalidParameter(
                f"options is {options!r}", hint="Give BM25(config='english')."
            )
        given = set_fields(options) | ({"is_default": True} if is_default else {})
        super().__init__(expression, name, given)

    def __get__(self, row: object, owner: type[T]) -> BM25Of[T]:
        """Give the searches of the class."""
        mapper = inspect(owner, raiseerr=False)
        if not isinstance(mapper, Mapper):
            return self  # type: ignore[return-value]  # a mixin or an abstract base
        return BM25Of(self.bind(mapper), owner)


def attach(mapped_class: type[T], attribute: str, embedding: Declared) -> None:
    """Give a class that is mapped already an embedding, or a BM25 index.

    Args:
        mapped_class: For instance one that was mapped imperatively.
        attribute: Name of the new attribute.
        embedding: The declaration.
    """
    embedding.__set_name__(mapped_class, attribute)
    setattr(mapped_class, attribute, embedding)
    embedding.bind(inspect(mapped_class))
    _BOUNDS.clear()


def declarations_of(metadata: MetaData) -> list[tuple[Table, Declaration]]:
    """List all embeddings that are declared on tables of a metadata."""
    return [
        (table, declaration)
        for table, declarations in _declarations(metadata)
        for declaration in declarations.values()
    ]


def _declarations(metadata: MetaData) -> list[tuple[Table, dict[str, Declaration]]]:
    return [
        (table, table.info[INFO_KEY])
        for table in metadata.tables.values()
        if INFO_KEY in table.info
    ]


def _attributes(mapped_class: type) -> dict[str, Declared]:
    """Find what a class declares, inherited ones too, by attribute."""
    found: dict[str, Any] = {}
    for base in reversed(mapped_class.__mro__):
        found.update(vars(base))
    return {name: v for name, v in found.items() if isinstance(v, Declared)}


_BOUNDS: WeakKeyDictionary[Mapper[Any], list[Bound]] = WeakKeyDictionary()


def bounds_of(mapper: Mapper[Any]) -> list[Bound]:
    """List the embeddings of a mapped class, inherited ones too."""
    found = _BOUNDS.get(mapper)
    if found is None:
        embeddings = [
            one
            for one in _attributes(mapper.class_).values()
            if isinstance(one, Embedding)
        ]
        found = _BOUNDS[mapper] = [one.bind(mapper) for one in embeddings]
    return found


@event.listens_for(Mapper, "after_mapper_constructed")
def _bind_all(mapper: Mapper[Any], mapped_class: type) -> None:
    for embedding in _attributes(mapped_class).values():
        embedding.bind(mapper)


def _one_of(name: str, value: object, possible: tuple[object, ...]) -> None:
    if value not in possible:
        raise InvalidParameter(
            f"{name} cannot be {value!r}",
            hint=f"It is {' or '.join(repr(one) for one in possible)}.",
        )
