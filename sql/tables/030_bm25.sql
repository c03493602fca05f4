-- The catalog of BM25 indexes. The tables of each index (documents, terms,
-- postings) are made with it: see functions/bm25/tables.sql.

create table pgembed.bm25 (
    bm25_id              int generated always as identity primary key,
    name                 text not null,
    embedding_id         int unique references pgembed.embedding,
    text_id              int not null unique,
    source               regclass not null,
    config               text not null,
    config_expression    text,
    config_columns       text[] not null default '{}',
    config_foreign       boolean not null default false,
    config_digest        bytea,
    k1                   float8 not null check (k1 between 0.01 and 10),
    b                    float8 not null check (b between 0 and 1),
    state                text not null default 'pending'
                         check (state in ('pending', 'ready', 'broken')),
    state_reason         text,
    created_at           timestamptz not null default now(),
    foreign key (text_id, source) references pgembed.captured_text (text_id, source)
);

-- Apart from what all who search may read, because it tells of all rows.
create table pgembed.bm25_pack (
    bm25_id       int primary key references pgembed.bm25 on delete cascade,
    packed_rows   bigint not null default 0,
    packed_length bigint not null default 0,
    frozen_avgdl  float8,
    slots         int not null default 0,
    segments      int[] not null default '{}'
);
comment on table pgembed.bm25_pack is 'What is packed of each BM25 index.';

create table pgembed.bm25_failed (
    bm25_id   int not null,
    key       text,
    error     text not null,
    failed_at timestamptz not null default now()
);
create index bm25_failed_key_idx on pgembed.bm25_failed (bm25_id, key);

comment on table pgembed.bm25_failed is
    'Rows whose words could not be read, with the error; the view failed shows them. Writers only append.';

comment on table pgembed.bm25 is
    'One row a BM25 index: of an embedding''s text, or one of its own (pgembed.create_bm25).';
comment on column pgembed.bm25.embedding_id is
    'The embedding it belongs to; NULL for one of its own.';
comment on column pgembed.bm25.config is
    'Text search configuration, schema-qualified: what a word is, and its stem.';
comment on column pgembed.bm25.config_expression is
    'SQL expression over the row that names its configuration, for tables of several languages; canonical.';
comment on column pgembed.bm25.k1 is 'How soon further occurrences of a word count for little.';
comment on column pgembed.bm25.b is 'How much long documents are held back: 0 not at all, 1 in full.';
comment on column pgembed.bm25.config_columns is 'Columns that config_expression reads.';
comment on column pgembed.bm25.config_foreign is
    'Whether config_expression calls functions, or reads types, that are not PostgreSQL''s.';
comment on column pgembed.bm25.config_digest is
    'Digest of the text search configurations, to notice that one was changed or made again.';
comment on column pgembed.bm25_pack.packed_rows is 'Documents in the postings, deleted ones included.';
comment on column pgembed.bm25_pack.packed_length is 'Sum of their lengths, in lexemes.';
comment on column pgembed.bm25_pack.frozen_avgdl is
    'Average length that the stored impacts were computed with.';
comment on column pgembed.bm25_pack.slots is 'Slots given out; a document keeps its slot until a rebuild.';
comment on column pgembed.bm25_pack.segments is
    'First slots of the segments: a term that is sparse has one row of postings in each.';

-- What a query carries from stage to stage.
create type pgembed._bm25_query as (
    terms         text[] collate "C",    -- those that the index knows
    idf           float8[],    -- of each, now
    frozen_idf    float8[],    -- of each, as folded into its blocks; NULL: it has none
    dense         text[] collate "C",    -- those with blocks
    dense_bound   float8,      -- most that these can add to a stored score
    has_sparse    boolean,     -- whether any has postings outside of blocks
    avgdl         float8,      -- average document length now
    frozen_avgdl  float8,      -- and as folded into the impacts
    margin        float8,      -- stored score that may still win, as a share of the k-th best
    slots         int,         -- how many were given out
    dead          int[],       -- those of deleted documents
    recent        bigint[],    -- versions of matching documents not packed yet ...
    recent_scores float8[],    -- ... and their scores
    k1            float8,
    b             float8
);

-- What writers appended since the last packing, as far as it concerns a query.
create type pgembed._bm25_changes as (
    truncated boolean,     -- whether what is packed is gone
    rows      bigint,      -- documents more, or fewer, than are packed
    length    bigint,      -- the sum of their lengths
    recent_df bigint[],    -- of each term of the query: documents that came ...
    dead_df   bigint[],    -- ... and went
    dead      int[],       -- slots of deleted documents
    versions  bigint[],    -- document by document, term by term that it has: version ...
    lengths   int[],
    terms     text[],
    tfs       int[]        -- ... and how often it has the term
);

-- What the caller's words come down to.
create type pgembed._bm25_words as (
    query    text,       -- as written
    config   text,
    terms    text[],
    prefix   text,       -- beginning of one more term
    required tsquery     -- what a document must match besides; NULL: any of the terms will do
);
