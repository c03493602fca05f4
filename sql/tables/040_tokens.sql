-- Encoders that run in PostgreSQL itself: a tokenizer, a vector for each of its tokens, and
-- their mean. See functions/models/tokens.sql.

create table pgembed.character (
    first          int primary key,
    last           int not null,
    kind           "char" not null,
    stripped       text,
    lower          text,
    stripped_lower text
);

comment on table pgembed.character is
    'What BERT''s normalizer and pre-tokenizer do to characters, independent of the database''s locale; by code point, '
    'in runs of what is treated alike. Those that are not here stay as they are.';
comment on column pgembed.character.kind is
    'c control, x control that is a space, s space, p punctuation, i ideograph, m mark, h Hangul syllable, w other.';
comment on column pgembed.character.stripped is
    'Without accents, with spaces around punctuation; NULL: as it is, and for marks nothing.';

create table pgembed.tokenizer (
    tokenizer_id        int generated always as identity primary key,
    digest              text not null unique,
    kind                text not null check (kind in ('wordpiece', 'words')),
    clean_text          boolean not null,
    split_ideographs    boolean not null,
    strip_accents       boolean not null,
    lowercase           boolean not null,
    special_pattern     text,
    unknown_id          int,
    continuing_prefix   text not null default '',
    longest_word        int not null,
    longest_token       int not null
);

comment on table pgembed.tokenizer is
    'Tokenizers that PostgreSQL can run: BERT''s WordPiece and whole words, over BERT''s normalizer and pre-tokenizer.';
comment on column pgembed.tokenizer.digest is
    'SHA-256 over the vocabulary and what is said here: models with the same tokenizer share it.';
comment on column pgembed.tokenizer.special_pattern is
    'Regular expression of the tokens that are looked for in the text as it was written, [SEP] and the like; NULL: none.';
comment on column pgembed.tokenizer.unknown_id is
    'Token of a word that cannot be made of tokens; NULL: such words are left out.';
comment on column pgembed.tokenizer.continuing_prefix is
    'What a token begins with that is not at the beginning of a word: ##.';
comment on column pgembed.tokenizer.longest_word is
    'In characters: longer ones are unknown.';

create table pgembed.token (
    tokenizer_id int not null references pgembed.tokenizer on delete cascade,
    token        text collate "C" not null,
    token_id     int not null,
    primary key (tokenizer_id, token) include (token_id)
);

comment on table pgembed.token is 'Vocabularies of tokenizers.';

create table pgembed.token_encoder (
    encoder_id   int generated always as identity primary key,
    model_id     int not null references pgembed.model on delete cascade,
    tokenizer_id int not null references pgembed.tokenizer,
    dimensions   int not null check (dimensions between 1 and 16000),
    normalized   boolean not null,
    max_tokens   int check (max_tokens > 0),
    fingerprint  text,
    embedding_id int references pgembed.embedding on delete cascade,
    trained_on   bigint,
    agreement    real,
    overlap      real,
    learnt_from  text,
    unit_length  boolean not null default true,
    over_row_security boolean not null default false,
    read_at      timestamptz,
    looked_at    timestamptz,
    new_share    real,
    new_agreement real,
    created_at   timestamptz not null default now(),
    unique nulls not distinct (model_id, embedding_id)
);

create index on pgembed.token_encoder (embedding_id);

comment on table pgembed.token_encoder is
    'Encoders of token vectors: the vector of a text is the mean of its tokens'' vectors. Static models, as pgembed model import '
    'puts them here; and query encoders, trained for one embedding.';
comment on column pgembed.token_encoder.embedding_id is
    'The embedding that a query encoder was trained for; NULL: it is the model itself.';
comment on column pgembed.token_encoder.trained_on is
    'Texts that a query encoder was trained on.';
comment on column pgembed.token_encoder.agreement is
    'Mean cosine of its vectors and those of the model, over texts that it was not trained on.';
comment on column pgembed.token_encoder.overlap is
    'Mean share of the 10 nearest of these texts that both find.';
comment on column pgembed.token_encoder.learnt_from is
    'The text expression (captured_text.canonical_expression) that a query encoder was trained on: it is not used for another.';
comment on column pgembed.token_encoder.unit_length is
    'Whether the vectors that it was trained on have length 1, as its own: else only their directions can be compared.';
comment on column pgembed.token_encoder.over_row_security is
    'Whether roles that row security restricts may use it, although it was trained on rows that they do not see.';
comment on column pgembed.token_encoder.read_at is
    'When the texts were read that a query encoder was trained on: what was encoded since is new to it.';
comment on column pgembed.token_encoder.looked_at is
    'When a service last looked how well it does on what is new.';
comment on column pgembed.token_encoder.new_share is
    'Share of the chunks that is new, in a sample.';
comment on column pgembed.token_encoder.new_agreement is
    'Mean cosine of its vectors and those of the model, over a sample of the new chunks.';
comment on column pgembed.token_encoder.model_id is
    'In whose space its vectors are.';
comment on column pgembed.token_encoder.normalized is
    'Whether the mean is scaled to unit length.';
comment on column pgembed.token_encoder.max_tokens is
    'How many tokens of a text count; NULL: all.';
comment on column pgembed.token_encoder.fingerprint is
    'Of the model''s weights: it is not used for others.';

create table pgembed.token_vector (
    encoder_id int not null references pgembed.token_encoder on delete cascade,
    token_id   int not null,
    "full"     vector,
    half       halfvec,
    primary key (encoder_id, token_id),
    check (num_nonnulls("full", half) = 1)
);

comment on table pgembed.token_vector is
    'Vectors of tokens, weights multiplied in; a token without one does not count in the mean.';
comment on column pgembed.token_vector.half is
    'The vector in 16 bits a dimension, where it is stored so; else it is in "full".';

-- What was learnt from a table, words and vectors, is for who may read what it was learnt from:
-- all of its columns, as they are called now. Where anything of it is not there any more, for nobody.
alter table pgembed.token_encoder enable row level security;
create policy readers on pgembed.token_encoder for select using (
    embedding_id is null
    or exists (select from pgembed.embedding as e
               join pgembed.captured_text as t using (text_id)
               join pg_catalog.pg_class as c on c.oid = e.source::oid
               where e.embedding_id = token_encoder.embedding_id
                 and t.canonical_expression = token_encoder.learnt_from
                 and (over_row_security or not pg_catalog.row_security_active(c.oid))
                 and pg_catalog.has_schema_privilege(c.relnamespace, 'usage')
                 and not exists (select from pg_catalog.unnest(t.source_columns) as n(name)
                                 where not exists (select from pg_catalog.pg_attribute as a
                                                   where a.attrelid = c.oid and a.attname = n.name and not a.attisdropped
                                                     and pg_catalog.has_column_privilege(c.oid, a.attnum, 'select')))));
alter table pgembed.token_vector enable row level security;
create policy readers on pgembed.token_vector for select using (
    encoder_id in (select e.encoder_id from pgembed.token_encoder as e));
alter table pgembed.tokenizer enable row level security;
create policy readers on pgembed.tokenizer for select using (
    tokenizer_id in (select e.tokenizer_id from pgembed.token_encoder as e));
alter table pgembed.token enable row level security;
create policy readers on pgembed.token for select using (
    tokenizer_id in (select e.tokenizer_id from pgembed.token_encoder as e));

-- Shorter vectors by projection (dimensionality reduction): see functions/models/projection.sql.
create table pgembed.projection (
    projection_id uuid primary key default gen_random_uuid(),    -- no other one's in a restored database either: services keep what they read
    vectors       bigint not null,
    created_at    timestamptz not null default now()
);

create table pgembed.projection_axis (
    projection_id uuid not null references pgembed.projection on delete cascade,
    place         int not null,
    axis          vector not null,
    primary key (projection_id, place)
) with (toast_tuple_target = 8160);    -- a search reads all: in place, as long as they fit a page
alter table pgembed.projection_axis alter column axis set storage external;

comment on table pgembed.projection is
    'Matrices that make the vectors of embeddings with reduction => ''pca'' from those of the model. One is never changed, and is '
    'deleted when no embedding uses it.';
comment on table pgembed.projection_axis is
    'Rows of these matrices, as long as the model''s vectors: directions in which the vectors of the table are longest, the longest first. '
    'The first of them are the projection to fewer dimensions.';
comment on column pgembed.projection.vectors is 'How many vectors of the table it was learnt from.';

alter table pgembed.embedding
    add column reduction text not null default 'truncate' check (reduction in ('truncate', 'pca')),
    add column projection_id uuid references pgembed.projection,
    add check (projection_id is null or reduction = 'pca');
create index on pgembed.embedding (projection_id);
comment on column pgembed.embedding.reduction is
    'What makes dimensions out of the model''s: truncate, the first of them; pca, a projection.';
comment on column pgembed.embedding.projection_id is
    'The projection; NULL with pca: it is not learnt yet, and nothing is encoded before.';

-- It tells in which directions the vectors of a table lie: for who may read all of them.
alter table pgembed.projection enable row level security;
create policy readers on pgembed.projection for select using (
    exists (select from pgembed.embedding as e
            join pg_catalog.pg_class as c on c.oid = e.source::oid
            join pg_catalog.pg_class as s on s.oid = e.side_table::oid
            where e.projection_id = projection.projection_id
              and not pg_catalog.row_security_active(c.oid)
              and pg_catalog.has_table_privilege(s.oid, 'select')));
alter table pgembed.projection_axis enable row level security;
create policy readers on pgembed.projection_axis for select using (
    projection_id in (select p.projection_id from pgembed.projection as p));
