"""What the functions take by name: one declaration for client, ORM, Alembic and CLI.

An option has the same name and meaning in SQL, and None is its default there; in the
functions that change something, None is what is there already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    TypedDict,
    get_args,
    runtime_checkable,
)

from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from datetime import datetime

    from pgembed.encoders.base import Encoder
    from pgembed.rerankers.base import Reranker, SupportsPredict

DEFAULT_MODEL = "all-MiniLM-L6-v2"

#: `'article'`, `'shop.article'` or `'"My Table"'` as in SQL (unquoted letters are
#: folded to lower case), or the exact names: `('shop', 'My Table')`.
Table: TypeAlias = str | tuple[str, ...]


@runtime_checkable
class FloatArray(Protocol):
    """A NumPy array or anything else whose `tolist()` gives numbers."""

    def tolist(self) -> Any:
        """Give Python's own numbers."""


@runtime_checkable
class FloatList(Protocol):
    """A `Vector` or `HalfVector` of pgvector's."""

    def to_list(self) -> Any:
        """Give the numbers."""


#: A query's vector: a sequence of numbers, a one-dimensional array, or an object of
#: pgvector's.
Vector: TypeAlias = Iterable[float] | FloatArray | FloatList

#: A filter on columns of the source: `{"category": "books", "price": {"$lt": 20}}`.
Filter: TypeAlias = Mapping[str, Any]

#: A cross-encoder's name or path, or an object that scores.
RerankerLike: TypeAlias = "Reranker | SupportsPredict | str"

Distance: TypeAlias = Literal["cosine", "inner_product", "l2"]
Chunking: TypeAlias = Literal["sentences", "none"]
Storage: TypeAlias = Literal["table", "column"]
VectorType: TypeAlias = Literal["vector", "halfvec"]
Reduction: TypeAlias = Literal["truncate", "pca"]
IndexKind: TypeAlias = Literal["hnsw", "ivfflat", "none"]
Wake: TypeAlias = Literal["notify", "poll"]
Switch: TypeAlias = Literal["auto", "manual", "in_place"]
Syntax: TypeAlias = Literal["words", "websearch"]
Fusion: TypeAlias = Literal["rrf", "minmax", "distribution"]
QueryEncoder: TypeAlias = Literal["auto", "model", "static"]
OutlierMethod: TypeAlias = Literal["knn", "lof", "centroid"]


@dataclass(frozen=True)
class HNSW:
    """An HNSW index.

    Attributes:
        m: Links of each node, 2 to 100; pgvector's default is 16.
        ef_construction: Candidates looked at while building, 4 to 1,000; its
            default is 64.
        binary: Index the signs of the vectors, which takes a bit a dimension; the
            nearest 400 by these are ranked again by the vectors themselves.
    """

    m: int | None = None
    ef_construction: int | None = None
    binary: bool | None = None


@dataclass(frozen=True)
class IVFFlat:
    """An IVFFlat index.

    Attributes:
        lists: Number of lists, 1 to 32,768; by the number of rows.
        binary: As of `HNSW`.
    """

    lists: int | None = None
    binary: bool | None = None


@dataclass(frozen=True)
class BM25:
    """A BM25 index over the same text, for word and hybrid search.

    Attributes:
        config: Name of a text search configuration, or the ISO code of its language;
            the database's default.
        config_expression: SQL over the row that names the configuration, for tables
            with texts in several languages.
        analyzer: Steps that a text goes through before its words are made, each on
            unless it is False: `parts`, `fold`, `cjk`.
        fields: Columns of the text whose words count apart, and how many times: a
            whole number from 1 to 100 each, four at most.
        k1: How soon repeated words stop counting; 1.2.
        b: How much long texts are held back, 0 to 1; 0.75.
    """

    config: str | None = None
    config_expression: str | None = None
    analyzer: Mapping[str, bool] | None = None
    fields: Mapping[str, int] | None = None
    k1: float | None = None
    b: float | None = None


VectorIndex: TypeAlias = HNSW | IVFFlat | None

_KINDS: dict[type, IndexKind] = {HNSW: "hnsw", IVFFlat: "ivfflat", type(None): "none"}


def index_arguments(index: VectorIndex) -> tuple[IndexKind, dict[str, int]]:
    """Write an index as `create_embedding` takes it: kind and options.

    Raises:
        InvalidParameter: It is no index.
    """
    kind = _KINDS.get(type(index))
    if kind is None:
        raise InvalidParameter(
            f"index is {index!r}", hint="Give HNSW(), IVFFlat() or None."
        )
    return kind, set_fields(index) if index is not None else {}


def set_fields(options: HNSW | IVFFlat | BM25) -> dict[str, Any]:
    """Give the options that are not left to the defaults."""
    values = {one.name: getattr(options, one.name) for one in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


class ModelOptions(TypedDict, total=False):
    """Options of `register_model`.

    Attributes:
        provider: `sentence-transformers`, `static`, `hashing` or `litellm`.
        distance: `cosine`, `inner_product` or `l2`; `cosine`.
        normalized: Whether its vectors have unit length; they have.
        query_prompt: Put before every query; the model's own.
        document_prompt: Put before every document; the model's own.
        max_tokens: Longest input in tokens; found when it is loaded.
        revision: Commit of the model on the hub, which services then load and no
            other; whichever they find.
    """

    provider: str | None
    distance: Distance | None
    normalized: bool | None
    query_prompt: str | None
    document_prompt: str | None
    max_tokens: int | None
    revision: str | None


class QueryEncoderOptions(TypedDict, total=False):
    """What encodes queries, of an embedding and of a search.

    Attributes:
        query_encoder: `model`: the encoder service; `static`: PostgreSQL itself, by
            token vectors that services train; `auto`: the service where one answers,
            else `static` where there is one. A search that does not say takes what the
            embedding has, `auto` by default; with `model` none is trained for it.
            `encoded_by` of each hit says which it was.
    """

    query_encoder: QueryEncoder | None


class DefaultOptions(TypedDict, total=False):
    """Which of several a search means that names only the table.

    Attributes:
        is_default: Searches that name only the table use it, instead of the first of
            the table.
    """

    is_default: bool


class PartitionOptions(TypedDict, total=False):
    """How many tables vectors are kept in.

    Attributes:
        partitions: Partition the side table by hash of the key into so many, 1 to 256,
            with an index each, which several services build at once; 1.
    """

    partitions: int | None


class TextOptions(QueryEncoderOptions, DefaultOptions, PartitionOptions, total=False):
    """How a text becomes vectors: options of every embedding.

    Attributes:
        model: A registered model; `all-MiniLM-L6-v2`.
        dimensions: Fewer than the model has; `reduction` says how.
        reduction: `truncate`: the first of the model's dimensions (Matryoshka models);
            `pca`: a projection that is learnt from the table's own vectors, once there
            are as many as the model has dimensions. Until then searches use whole ones.
        distance: `cosine`, `inner_product` or `l2`; the model's.
        chunking: `sentences`, or `none` (default with column storage).
        chunk_size: Longest chunk in tokens; as long as the model allows.
        chunk_overlap: Tokens that a chunk repeats of the one before.
        vector_type: `vector` or `halfvec`; by the dimensions.
        wake: `notify`, or `poll` for applications with two-phase commit.
        max_attempts: Attempts, the first included, before a row counts as failed; 5.
    """

    model: str | None
    dimensions: int | None
    reduction: Reduction | None
    distance: Distance | None
    chunking: Chunking | None
    chunk_size: int | None
    chunk_overlap: int | None
    vector_type: VectorType | None
    wake: Wake | None
    max_attempts: int | None


class PlaceOptions(TypedDict, total=False):
    """Where vectors are kept; fixed once they are.

    Attributes:
        storage: `table`, or `column` for one vector a row in the table itself.
        column_name: Its name with column storage; `embedding`.
    """

    storage: Storage | None
    column_name: str | None


class DeclaredOptions(TextOptions, PlaceOptions, total=False):
    """Options of `pgembed.sqlalchemy.Embedding`."""


class EmbeddingOptions(TextOptions, total=False):
    """Options of `create_embedding` and `alter_embedding`.

    Attributes:
        index: `hnsw`, `ivfflat` or `none`; `hnsw`.
        index_options: `{"m": 16, "ef_construction": 64}` or `{"lists": 100}`;
            `{"binary": true}`: the signs of the vectors.
        bm25: Whether the text can be searched by words too (`bm25_search`,
            `hybrid_search`); wherever the expression allows it.
        bm25_options: As `options` of `create_bm25`.
    """

    index: IndexKind | None
    index_options: Mapping[str, int] | None
    bm25: bool | None
    bm25_options: Mapping[str, object] | None


class ChangedOptions(EmbeddingOptions, total=False):
    """Options of `alter_embedding`.

    Attributes:
        switch: When vectors of another model, dimensions, reduction, type or distance,
            or in other partitions, take the place of those that searches use: `auto`,
            as soon as all are there; `manual`, at `switch_embedding`; `in_place`: the
            old ones are removed first, and until they are made anew searches do not
            find the rows.
    """

    switch: Switch | None


class NewEmbeddingOptions(EmbeddingOptions, PlaceOptions, total=False):
    """Options of `create_embedding`."""


#: What `create_embedding` does about an option that is not given; None: by the others.
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(NewEmbeddingOptions.__annotations__),
    "model": DEFAULT_MODEL,
    "storage": "table",
    "index": "hnsw",
    "index_options": {},
    "wake": "notify",
    "max_attempts": 5,
    "query_encoder": "auto",
    "is_default": False,
    "reduction": "truncate",
    "partitions": 1,
    "bm25_options": {},
}

#: The values that an option may have, of those with few.
CHOICES: dict[str, tuple[str, ...]] = {
    "distance": get_args(Distance),
    "storage": get_args(Storage),
    "chunking": get_args(Chunking),
    "vector_type": get_args(VectorType),
    "reduction": get_args(Reduction),
    "wake": get_args(Wake),
    "switch": get_args(Switch),
    "query_encoder": get_args(QueryEncoder),
    "method": get_args(OutlierMethod),
}


class FilterOptions(TypedDict, total=False):
    """Options of everything that finds rows.

    Attributes:
        filter: Conditions on columns of the table, as data: safe to build from user
            input. `{"category": "books", "price": {"$lt": 20}}`.
    """

    filter: Filter | None


class RankingOptions(FilterOptions, total=False):
    """Options of everything that ranks rows.

    Attributes:
        offset: Leave out so many of the first, up to 10,000: pages of one ranking.
    """

    offset: int


class TableOptions(TypedDict, total=False):
    """Options of everything that looks into a table.

    Attributes:
        where_sql: A condition in SQL, with the row as `s`: never build it from user
            input.
        embedding: Which embedding or BM25 index, where the table has several.
    """

    where_sql: str | None
    embedding: str | None


class PageOptions(RankingOptions, TableOptions, total=False):
    """Options of the client's searches.

    Attributes:
        k: Number of hits, 1 to 10,000; 10.
    """

    k: int


class SimilarityOptions(TypedDict, total=False):
    """Options of what compares vectors.

    Attributes:
        min_similarity: Leave out what vectors find less similar.
    """

    min_similarity: float | None


class EncoderOptions(QueryEncoderOptions, total=False):
    """Where a query becomes a vector.

    Attributes:
        encoder: Encodes the query in this process: an encoder, or the name of a
            registered model. Without one the encoder service does it.
        timeout: Longest wait for the encoder service, in seconds; 10.
        primary_dsn: Connection string of the primary, where the connection leads to a
            standby: from there no service can be asked.
    """

    encoder: Encoder | str | None
    timeout: float
    primary_dsn: str | None


class QueryVectorOptions(EncoderOptions, total=False):
    """Where a query becomes a vector, or that it is one already.

    Attributes:
        query_embedding: The query as a vector, instead of or besides its words.
    """

    query_embedding: Vector | None


class ImageOptions(TypedDict, total=False):
    """An image as the query.

    Attributes:
        query_image: The bytes of an image file, instead of words: for embeddings of
            models of texts and images.
    """

    query_image: bytes | None


class RerankOptions(TypedDict, total=False):
    """Ranking the best again with a cross-encoder, in this process or hosted.

    Attributes:
        rerank: Rank so many of the best hits again, with a cross-encoder that reads
            query and text together.
        reranker: Which: a CrossEncoder's name or path, one that is loaded, a hosted
            one (`litellm:cohere/rerank-v3.5`), or an object with the methods of
            `pgembed.rerankers.Reranker`.
    """

    rerank: int | None
    reranker: RerankerLike


class NearestOptions(SimilarityOptions, total=False):
    """Options of what finds the nearest vectors.

    Attributes:
        ef_search: How far the index looks, 1 to 1,000: more is slower and misses
            less. IVFFlat: the number of lists it looks into.
    """

    ef_search: int | None


class DiversityOptions(TypedDict, total=False):
    """Options of what may put rows that are alike apart.

    Attributes:
        diversity: How much a row is put off that is like one before it, 0 to 1
            (maximal marginal relevance), among the first 200; 0.
    """

    diversity: float


class VectorOptions(RankingOptions, NearestOptions, DiversityOptions, total=False):
    """Options of what ranks by vectors.

    Attributes:
        exact: Compare with every row instead of using the index.
    """

    exact: bool


class ReadingOptions(TypedDict, total=False):
    """How the words of a query are read.

    Attributes:
        syntax: `words`: each of them counts; `websearch`: quotes, OR and - as in
            `websearch_to_tsquery`.
        prefix: The last word is the beginning of one, as while it is being typed.
        config: Text-search configuration of the query; the index's own.
        fuzzy: Read words that no row has as the likeliest ones that rows have, one or
            two letters away; `read_as` of each hit says which were read as which.
    """

    syntax: Syntax | None
    prefix: bool
    config: str | None
    fuzzy: bool


class WordOptions(RankingOptions, ReadingOptions, total=False):
    """Options of what ranks by words.

    Attributes:
        min_score: Leave out what has a lower score.
        snippets: Give pieces of the text with the found words in `<b>`.
        explain: Tell with each hit what its score is made of.
        boost: A number in SQL, with the row as `s`, by which scores are multiplied:
            `1 + ln(1 + views)`. Orders the best 1,000 rows by their words. Never build
            it from user input.
    """

    min_score: float | None
    snippets: bool
    explain: bool
    boost: str | None


class FusionOptions(WordOptions, NearestOptions, DiversityOptions, total=False):
    """Options of what ranks by words and vectors.

    Attributes:
        fusion: `rrf` (reciprocal ranks), `minmax` or `distribution` (scores, scaled).
        vector_weight: Weight of the vectors, 0 or more; 1.
        bm25_weight: Weight of the words, 0 or more; 1.
        rrf_k: How little the first ranks stand out with `rrf`; 20.
        candidates: Rows that each arm gives; 40, and more for later pages.
        on_missing_query_embedding: `error`, or `bm25`: where no encoder service
            answers, search by words alone.
    """

    fusion: Fusion | None
    vector_weight: float | None
    bm25_weight: float | None
    rrf_k: int | None
    candidates: int | None
    on_missing_query_embedding: Literal["error", "bm25"] | None


class SimilarOptions(PageOptions, SimilarityOptions, total=False):
    """Options of `similar`."""


class VectorSearchOptions(
    VectorOptions,
    PageOptions,
    QueryVectorOptions,
    ImageOptions,
    RerankOptions,
    total=False,
):
    """Options of `vector_search`."""


class BM25SearchOptions(WordOptions, PageOptions, RerankOptions, total=False):
    """Options of `bm25_search`."""


class HybridSearchOptions(
    FusionOptions, PageOptions, QueryVectorOptions, RerankOptions, total=False
):
    """Options of `hybrid_search`, and of `search`."""


class RecommendOptions(PageOptions, SimilarityOptions, DiversityOptions, total=False):
    """Options of `recommend`.

    Attributes:
        dislike_weight: How much what is disliked counts against what is liked, 0 to 1;
            0.2.
    """

    dislike_weight: float


class NeighbourOptions(FilterOptions, TableOptions, total=False):
    """Options of what looks at the nearest rows of each row.

    Attributes:
        neighbours: How many of the nearest rows of each row are looked at, 1 to 100;
            10.
    """

    neighbours: int


class DuplicateGroupOptions(NeighbourOptions, SimilarityOptions, total=False):
    """Options of `duplicate_groups`; `min_similarity` is 0.95."""


class DuplicateOptions(DuplicateGroupOptions, total=False):
    """Options of `duplicates`.

    Attributes:
        since: Only pairs of a row that was embedded since then.
    """

    since: datetime | None


class DuplicatesOfOptions(FilterOptions, TableOptions, SimilarityOptions, total=False):
    """Options of `duplicates_of`; `min_similarity` is 0.95.

    Attributes:
        k: Number of rows, 1 to 10,000; 10.
        query_embedding: The text as a vector, as the model makes it of a document.
        encoder: As of a search.
        timeout: As of a search.
        primary_dsn: As of a search.
    """

    k: int
    query_embedding: Vector | None
    encoder: Encoder | str | None
    timeout: float
    primary_dsn: str | None


class OutlierOptions(NeighbourOptions, total=False):
    """Options of `outliers`.

    Attributes:
        method: `knn`: the mean distance to the nearest rows; `lof`: the local outlier
            factor; `centroid`: the distance to the mean of all rows; `knn`.
        k: Number of rows, 1 to 10,000; 100; None: all.
    """

    method: OutlierMethod
    k: int | None


class ClassifyOptions(FilterOptions, TableOptions, EncoderOptions, total=False):
    """Options of `classify`."""


class QueryModelOptions(TypedDict, total=False):
    """Which model a vector is of.

    Attributes:
        query_model: The model that made a query's vector, to be checked.
    """

    query_model: str | None


class ORMVectorSearchOptions(
    VectorOptions, EncoderOptions, QueryModelOptions, total=False
):
    """Options of the ORM's `vector_search`."""


class ORMHybridSearchOptions(
    FusionOptions, QueryVectorOptions, QueryModelOptions, total=False
):
    """Options of the ORM's `hybrid_search`."""


class ORMSimilarOptions(RankingOptions, SimilarityOptions, total=False):
    """Options of the ORM's `similar`."""


class CountOptions(
    FilterOptions,
    TableOptions,
    ReadingOptions,
    SimilarityOptions,
    QueryVectorOptions,
    total=False,
):
    """Options of `search_count`."""


class FacetOptions(FilterOptions, TableOptions, ReadingOptions, total=False):
    """Options of `search_facets`.

    Attributes:
        max_values: Of each column at most so many values, the most frequent; 20.
        exclude_own_filter: Leave what the filter says of a column out of that column's
            counts, so that the values beside the chosen one are counted too.
    """

    max_values: int
    exclude_own_filter: bool


_ENTRY = re.compile(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", re.MULTILINE)


def described(options: type) -> dict[str, str]:
    """Read what the options of a class are, by name, from the documentation.

    Args:
        options: One of this module's classes.
    """
    # What a class inherits is written at its base, and an option means the same in all.
    found = _described_anywhere() | _entries(options)
    return {name: found[name] for name in options.__annotations__}


@cache
def _described_anywhere() -> dict[str, str]:
    found: dict[str, str] = {}
    for one in globals().values():
        if _has_options(one):
            found |= _entries(one)
    return found


def _entries(options: type) -> dict[str, str]:
    found = _ENTRY.findall((options.__doc__ or "").partition("Attributes:")[2])
    return {name: " ".join(text.split()) for name, text in found}


def _has_options(found: Any) -> bool:
    return isinstance(found, type) and hasattr(found, "__total__")
