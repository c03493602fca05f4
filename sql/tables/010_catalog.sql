-- The catalog: which models there are, and which table has which embedding.
-- Everything else pgembed makes (side tables, triggers, indexes) follows from
-- one row of pgembed.embedding and can be made again from it.

create schema if not exists pgembed;

create table pgembed.model (
    model_id        int generated always as identity primary key,
    name            text not null unique,
    provider        text not null default 'sentence-transformers',
    dimensions      int not null check (dimensions between 1 and 16000),
    distance        text not null default 'cosine'
                    check (distance in ('cosine', 'inner_product', 'l2')),
    normalized      boolean not null default true,
    query_prompt    text,
    document_prompt text,
    max_tokens      int check (max_tokens > 0),
    revision        text,
    fingerprint     text,
    images          boolean
);

comment on table pgembed.model is
    'Encoder models that embeddings may name; see pgembed.register_model().';
comment on column pgembed.model.normalized is
    'Whether the model returns vectors of unit length.';
comment on column pgembed.model.query_prompt is
    'Text put before every query; NULL: the prompt that the model itself declares.';
comment on column pgembed.model.document_prompt is
    'Text put before every document; NULL: the prompt that the model itself declares.';
comment on column pgembed.model.max_tokens is
    'Longest input in tokens, special tokens included; NULL until a service has loaded the model.';
comment on column pgembed.model.revision is
    'Revision of a model on the hub, by its commit; NULL: the newest.';
comment on column pgembed.model.fingerprint is
    'SHA-256 over the weights, set by the first service that loads the model; '
    'a service that finds other weights refuses to mix them in.';

comment on column pgembed.model.images is
    'Whether the model encodes images too, into the space of its texts; NULL until a service has loaded the model.';

-- Models that many teams use. Dimensions must be known when a side table is
-- made, possibly long before a service loads the weights.
insert into pgembed.model (name, provider, dimensions, max_tokens, query_prompt, document_prompt)
values
    ('all-MiniLM-L6-v2', 'sentence-transformers', 384, 256, '', ''),
    ('all-MiniLM-L12-v2', 'sentence-transformers', 384, 128, '', ''),
    ('all-mpnet-base-v2', 'sentence-transformers', 768, 384, '', ''),
    ('multi-qa-MiniLM-L6-cos-v1', 'sentence-transformers', 384, 512, '', ''),
    ('paraphrase-multilingual-MiniLM-L12-v2', 'sentence-transformers', 384, 128, '', ''),
    ('BAAI/bge-small-en-v1.5', 'sentence-transformers', 384, 512,
     'Represent this sentence for searching relevant passages: ', ''),
    ('BAAI/bge-base-en-v1.5', 'sentence-transformers', 768, 512,
     'Represent this sentence for searching relevant passages: ', ''),
    ('BAAI/bge-m3', 'sentence-transformers', 1024, 8192, '', ''),
    ('intfloat/e5-small-v2', 'sentence-transformers', 384, 512, 'query: ', 'passage: '),
    ('intfloat/multilingual-e5-small', 'sentence-transformers', 384, 512, 'query: ', 'passage: '),
    ('intfloat/multilingual-e5-base', 'sentence-transformers', 768, 512, 'query: ', 'passage: '),
    ('intfloat/multilingual-e5-large', 'sentence-transformers', 1024, 512, 'query: ', 'passage: '),
    ('mixedbread-ai/mxbai-embed-large-v1', 'sentence-transformers', 1024, 512,
     'Represent this sentence for searching relevant passages: ', ''),
    ('nomic-ai/nomic-embed-text-v1.5', 'sentence-transformers', 768, 8192,
     'search_query: ', 'search_document: '),
    ('Qwen/Qwen3-Embedding-0.6B', 'sentence-transformers', 1024, 32768, null, null),
    ('text-embedding-3-small', 'litellm', 1536, 8191, '', ''),
    ('text-embedding-3-large', 'litellm', 3072, 8191, '', ''),
    ('clip-ViT-B-32', 'sentence-transformers', 512, 77, '', ''),
    ('clip-ViT-B-16', 'sentence-transformers', 512, 77, '', ''),
    ('clip-ViT-L-14', 'sentence-transformers', 768, 77, '', '');
update pgembed.model set images = name like 'clip-%';

-- The text of a table that something is made of: vectors, a BM25 index, or both.
-- Triggers, the functions that read the table as its owner, and the follow-up of
-- renames, partitions, owners and privileges belong to it.
create table pgembed.captured_text (
    text_id              int generated always as identity primary key,
    source               regclass not null,
    text_expression      text not null,
    canonical_expression text not null,
    source_columns       text[] not null,
    volatility           text not null check (volatility in ('immutable', 'stable', 'time')),
    foreign_code         boolean not null,
    code_functions       text[] not null default '{}',
    code_digest          bytea,
    capture              boolean not null default true,
    capture_digest       bytea,
    key_columns          int2[],
    partitions           text[] not null default '{}',
    unseen               boolean not null default false,
    state                text not null default 'active' check (state in ('active', 'broken')),
    state_reason         text,
    created_at           timestamptz not null default now(),
    kind                 text not null default 'text' check (kind in ('text', 'image', 'location')),
    unique (text_id, source)
);

comment on table pgembed.captured_text is
    'One row a text expression over a table that is captured: embeddings and BM25 indexes point to it.';
comment on column pgembed.captured_text.text_expression is
    'The text of a row, as the user wrote it.';
comment on column pgembed.captured_text.canonical_expression is
    'The same expression as the server prints it with every name qualified: it means the same '
    'under any search_path.';
comment on column pgembed.captured_text.source_columns is
    'Columns the expression reads: the update trigger looks at these and the key only.';
comment on column pgembed.captured_text.volatility is
    'immutable: the text depends on its row alone; stable: on other tables too, perhaps; time: on the clock.';
comment on column pgembed.captured_text.foreign_code is
    'Whether the expression calls functions, or reads types, that are not PostgreSQL''s: these run as the '
    'owner of the table only, never as who searches.';
comment on column pgembed.captured_text.code_functions is
    'Functions of users that the expression calls.';
comment on column pgembed.captured_text.code_digest is
    'Digest of what these say, to notice that one was changed.';
comment on column pgembed.captured_text.capture is
    'False while pgembed.pause_embedding(name, capture => false) has removed the triggers.';
comment on column pgembed.captured_text.capture_digest is
    'Digest of what functions and triggers were generated from, to notice that they must be generated again.';
comment on column pgembed.captured_text.key_columns is
    'Numbers of the columns of the primary key that the triggers know.';
comment on column pgembed.captured_text.partitions is
    'Partitions that the source had when last looked at: the rows of one that is dropped go without a DELETE.';
comment on column pgembed.captured_text.unseen is
    'Whether triggers were off when last looked at: once they are on, the table is read again.';
comment on column pgembed.captured_text.state_reason is
    'Why the text is broken, and what to do.';
comment on column pgembed.captured_text.kind is
    'text; image: the expression gives the bytes of image files, and the canonical one gives these in base64; or location: it '
    'gives paths or addresses of image files (pgembed.image_at).';

create table pgembed.embedding (
    embedding_id         int generated always as identity primary key,
    name                 text not null,
    text_id              int not null,
    source               regclass not null,
    side_table           regclass not null,
    model_id             int not null references pgembed.model,
    dimensions           int not null check (dimensions between 1 and 16000),
    distance             text not null
                         check (distance in ('cosine', 'inner_product', 'l2')),
    storage              text not null check (storage in ('table', 'column')),
    column_name          name,
    vector_type          text not null check (vector_type in ('vector', 'halfvec')),
    chunking             text not null check (chunking in ('sentences', 'none')),
    chunk_size           int check (chunk_size > 0),
    chunk_overlap        int check (chunk_overlap >= 0),
    index_kind           text not null check (index_kind in ('hnsw', 'ivfflat', 'none')),
    index_options        jsonb not null default '{}',
    index_error          text,
    wake                 text not null check (wake in ('notify', 'poll')),
    max_attempts         smallint not null check (max_attempts > 0),
    query_encoder        text not null default 'auto' check (query_encoder in ('auto', 'model', 'static')),
    state                text not null default 'active'
                         check (state in ('active', 'paused', 'broken')),
    state_reason         text,
    backfill_state       text not null default 'pending'
                         check (backfill_state in ('pending', 'done')),
    revision             int not null default 1,
    valid_from           timestamptz not null default '-infinity',
    created_at           timestamptz not null default now(),
    generation           text not null default 'current' check (generation in ('current', 'next', 'previous')),
    current_id           int references pgembed.embedding,
    switch               text check (switch in ('auto', 'manual')),
    switch_error         text,
    is_default           boolean not null default false,
    partitions           int not null default 1 check (partitions between 1 and 256),
    check (partitions = 1 or storage = 'table'),
    check ((storage = 'column') = (column_name is not null)),
    check ((generation = 'current') = (current_id is null)),
    check ((generation = 'next') = (switch is not null)),
    check (generation = 'current' or not is_default),
    unique (current_id, generation),
    foreign key (text_id, source) references pgembed.captured_text (text_id, source)
);

comment on table pgembed.embedding is
    'One row an embedding, as declared by pgembed.create_embedding(); the source of truth for '
    'its side table, triggers and index.';
comment on column pgembed.embedding.name is
    'Unique in the schema of the source.';
comment on column pgembed.embedding.chunk_size is
    'Longest chunk in tokens; NULL: as long as the model allows.';
comment on column pgembed.embedding.chunk_overlap is
    'Most tokens that a chunk repeats of the one before it, in whole sentences; NULL: an eighth of '
    'the chunk size.';
comment on column pgembed.embedding.query_encoder is
    'What encodes queries where a search does not say: auto, static or model; with model none is trained by services.';
comment on column pgembed.embedding.state_reason is
    'Why the embedding is broken, and what to do.';
comment on column pgembed.embedding.revision is
    'Grows with every change of the declaration: a service never writes what it encoded for '
    'an earlier one.';
comment on column pgembed.embedding.generation is
    'current: what searches use; next: made beside it, to take its place; previous: whose place was taken.';
comment on column pgembed.embedding.current_id is
    'The embedding whose next or previous generation this is.';
comment on column pgembed.embedding.switch is
    'Whether a next generation takes the place of the current one as soon as it is complete (auto), or when it is told to (manual).';
comment on column pgembed.embedding.switch_error is
    'Why a complete next generation could not take the place of the current one when that was tried last.';
comment on column pgembed.embedding.is_default is
    'Whether it is the one that a search means which names only the table; of one table at most one is.';
comment on column pgembed.embedding.partitions is
    'Partitions of the side table, by hash of the key of the source, each with an index; 1: it has none.';
comment on column pgembed.embedding.valid_from is
    'Vectors written before this time are to be made again (reembed, new chunk size).';

create unique index embedding_source_idx on pgembed.embedding (source) where is_default;

-- Apart from what all who search may read, because it names a row.
create table pgembed.backfill (
    embedding_id int primary key references pgembed.embedding on delete cascade,
    after        text not null,
    passed       bigint not null default 0
);
comment on table pgembed.backfill is
    'Last key that the backfill of an embedding has queued, and how many rows it has passed; the backfill walks the primary key.';

-- What a statement over a user's table gets: see functions/capture/fence.sql.
create type pgembed._work as (
    keys    text[],
    vectors vector[],
    after   text,     -- a key: what comes behind it
    n       bigint    -- how many, at most
);
