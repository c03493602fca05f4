-- The catalog of BM25 indexes, and the tables of index 0, which stay empty: each index has
-- copies of them (functions/bm25/copy.sql).

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
    analyzer             jsonb not null default '{"parts": true, "fold": true, "cjk": true}',
    field_columns        int2[],
    field_weights        int[],
    k1                   float8 not null check (k1 between 0.01 and 10),
    b                    float8 not null check (b between 0 and 1),
    state                text not null default 'pending'
                         check (state in ('pending', 'ready', 'broken')),
    state_reason         text,
    created_at           timestamptz not null default now(),
    is_default           boolean not null default false,
    foreign key (text_id, source) references pgembed.captured_text (text_id, source)
);
create unique index bm25_source_idx on pgembed.bm25 (source) where is_default;

-- Apart from what all who search may read, because it tells of all rows.
create table pgembed.bm25_pack (
    bm25_id       int primary key references pgembed.bm25 on delete cascade,
    packed_rows   bigint not null default 0,
    packed_length bigint not null default 0,
    frozen_avgdl  float8,
    old_avgdl     float8,
    weighed_to    text collate "C",
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
create index bm25_failed_key_idx on pgembed.bm25_failed using hash (key);    -- of any length

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
comment on column pgembed.bm25.field_columns is
    'Columns whose words count apart, by number, the heaviest first: tsvector weights A to D; NULL: the text as a whole.';
comment on column pgembed.bm25.field_weights is 'How many times a word of each field counts.';
comment on column pgembed.bm25.analyzer is
    'What is done to a text before its words are made: options of pgembed.analyze, all three.';
comment on column pgembed.bm25_pack.packed_rows is 'Documents in the postings, deleted ones included.';
comment on column pgembed.bm25_pack.packed_length is 'Sum of their lengths, in lexemes.';
comment on column pgembed.bm25_pack.frozen_avgdl is
    'Average length that the stored impacts were computed with.';
comment on column pgembed.bm25_pack.weighed_to is
    'While what is stored is weighed anew, term by term: the last that was. NULL: all are.';
comment on column pgembed.bm25_pack.old_avgdl is
    'Average length that the impacts of the terms after that one were computed with.';
comment on column pgembed.bm25_pack.slots is 'Slots given out; a document keeps its slot until a rebuild.';
comment on column pgembed.bm25_pack.segments is
    'First slots of the segments: a term that is sparse has one row of postings in each.';

-- What a query carries from stage to stage.
create type pgembed._bm25_query as (
    terms         text[] collate "C",    -- those that the index knows
    df            float8[],    -- of each, now: documents that have it
    idf           float8[],
    frozen_idf    float8[],    -- of each, as folded into its blocks; NULL: it has none
    dense         text[] collate "C",    -- those with blocks
    dense_bound   float8,      -- most that these can add to a stored score
    has_sparse    boolean,     -- whether any has postings outside of blocks
    rows          float8,      -- documents now
    avgdl         float8,      -- and their average length
    frozen_avgdl  float8[],    -- and as folded into the impacts of each term
    margin        float8,      -- stored score that may still win, as a share of the k-th best
    slots         int,         -- how many were given out
    dead          int[],       -- those of deleted documents
    recent        bigint[],    -- versions of matching documents not packed yet ...
    recent_scores float8[],    -- ... and their scores
    k1            float8,
    b             float8
);

-- What a score is made of besides the document.
create type pgembed._bm25_weights as (
    terms text[] collate "C",    -- those of the query that there are
    df    float8[],              -- in how many documents each is
    rows  float8,
    avgdl float8
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
    required tsquery,    -- what a document must match besides; NULL: any of the terms will do
    read_as  jsonb       -- words that were read as others; NULL: none
);

-- The tables of an index.
--
-- Documents are numbered by slot, 2,000 slots to a block. A term that is dense
-- in a block (16 documents or more) is one row there, a sparsevec of impacts;
-- the documents of a term elsewhere are arrays, one row a segment:
--
--   doc      slot -> key, version, length       term     term -> df, bounds
--   block    (term, block) -> impacts           posting  (term, segment) -> slots, impacts
--   recent   documents written since, as tsvector     dead   tombstones
--
-- Writers only append to recent and dead. They read no index state and touch no
-- shared counter, so they never wait for each other, for a reader or for the
-- packer, which alone writes the other tables. A tombstone kills a document
-- of its key and words that is not packed, else the packed one of its key before it.
create sequence pgembed._bm25_0_version;

-- Appended by every write: no index to keep, and short to scan.
create table pgembed._bm25_0_recent (
    key       text not null,
    version   bigint not null default nextval('pgembed._bm25_0_version'),
    length    int not null,
    lexemes   tsvector not null,
    partition regclass
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, toast_tuple_target = 8160);
create table pgembed._bm25_0_dead (
    key         text,
    version     bigint not null default nextval('pgembed._bm25_0_version'),
    op          "char" not null default 'D',
    recorded_at timestamptz not null default clock_timestamp(),
    length      int,
    lexemes     tsvector,
    slot        int,
    partition   regclass
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, toast_tuple_target = 8160);
-- They have no primary key, and may be published all the same.
alter table pgembed._bm25_0_recent replica identity full;
alter table pgembed._bm25_0_dead replica identity full;

create table pgembed._bm25_0_doc (
    slot      int primary key,
    key       text not null,
    version   bigint not null,
    length    int not null,
    lexemes   tsvector,
    partition regclass
) with (toast_tuple_target = 8160);
create index on pgembed._bm25_0_doc (key, version);
create table pgembed._bm25_0_term (
    term       text collate "C" primary key,
    df         int not null,
    dense_df   int not null,
    max_impact real not null,
    frozen_idf real
);
create table pgembed._bm25_0_posting (
    term       text collate "C",
    first_slot int,
    slots      int[] not null,
    impacts    real[] not null,
    primary key (term, first_slot)
) with (toast_tuple_target = 8160);
create table pgembed._bm25_0_block (
    term    text collate "C",
    block   int,
    impacts sparsevec not null,
    primary key (term, block)
) with (toast_tuple_target = 8160);
alter table pgembed._bm25_0_recent alter column lexemes set storage main;
alter table pgembed._bm25_0_dead alter column lexemes set storage main;
alter table pgembed._bm25_0_doc alter column lexemes set storage main;
-- A row that just fits a page stays in line, and uncompressed: fetched from
-- TOAST, the same block takes three times as long.
alter table pgembed._bm25_0_posting
    alter column slots set storage external, alter column impacts set storage external;
alter table pgembed._bm25_0_block alter column impacts set storage external;

comment on table pgembed._bm25_0_recent is 'Documents not packed yet.';
comment on table pgembed._bm25_0_dead is
    'Tombstones (D), and marks that the table (T) or a partition (P) was truncated, or that all must be read again (R).';
comment on table pgembed._bm25_0_doc is
    'Packed documents by slot; length in lexemes. Their words are kept only where the source has row security.';
comment on table pgembed._bm25_0_term is
    'Terms of packed documents: document frequency, how many of those in blocks, the '
    'largest impact, and the idf folded into the blocks.';
comment on table pgembed._bm25_0_posting is
    'Documents of a term in blocks where it is sparse, by segment; impact without idf.';
comment on table pgembed._bm25_0_block is
    'Documents of a term in a block where it is dense: impact times frozen idf by slot.';
