-- BM25 in plain SQL: the tables of an index, and how its functions are made.
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
-- packer, which alone writes the other tables (pack.sql). A tombstone kills a document
-- of its key and words that is not packed, else the packed one of its key before it.
--
-- The functions of an index are made from templates, so that their plans are
-- kept. In a template bm25_N stands for bm25_7, where 7 is the index's id, and
-- vectors for the schema of pgvector: it is not on the path of these functions,
-- because others may be able to create objects in it.

create or replace function pgembed._bm25_table(p_id int, p_table text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('pgembed.bm25_%s_%s', p_id, p_table)
$$;
comment on function pgembed._bm25_table(int, text) is 'Name of a table of a BM25 index.';

create or replace function pgembed._bm25_make(p_id int, p_template text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute replace(p_template, 'bm25_N', 'bm25_' || p_id);
end
$$;
comment on function pgembed._bm25_make(int, text) is
    'Executes a template for one BM25 index.';

create or replace function pgembed._bm25_function(
    p_id int, p_name text, p_arguments text, p_returns text, p_options text, p_body text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := format('bm25_%s_%s', p_id, p_name);
    search_path constant text := 'pg_catalog, pgembed, pg_temp';
    old_path constant text := current_setting('search_path');
    signature text;
begin
    perform set_config('search_path', search_path, true);
    -- Functions that are called from outside set the path; a stage runs under that
    -- of its caller: to set it again each time would cost as much as the stage.
    execute format('create or replace function pgembed.%s(%s) returns %s language plpgsql %s as %L',
        name, p_arguments, p_returns, replace(p_options, 'index_path', search_path),
        replace(replace(replace(p_body, 'bm25_N', 'bm25_' || p_id), 'index_N', p_id::text),
                'vectors.', pgembed._vector_schema() || '.'));
    perform set_config('search_path', old_path, true);
    select p.oid::regprocedure into signature
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'pgembed'::regnamespace and p.proname = name;
    perform pgembed._give_to_owner('function', signature);
    execute format('revoke all on function %s from public', signature);
    execute format('comment on function %s is %L', signature,
                   format('Generated: %s of BM25 index %s.', p_name, p_id));
end
$$;
comment on function pgembed._bm25_function(int, text, text, text, text, text) is
    'Makes one function of a BM25 index from its template.';

create or replace function pgembed._bm25_parts() returns text[]
language sql immutable
as $$
    select array['version', 'recent', 'dead', 'doc', 'term', 'posting', 'block']
$$;
comment on function pgembed._bm25_parts() is 'What a BM25 index has: a sequence, version, and tables.';

create or replace function pgembed._bm25_create_tables(p_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
    perform pgembed._bm25_make(p_id, replace($template$
        create sequence pgembed.bm25_N_version;

        -- Appended by every write: no index to keep, and short to scan.
        create table pgembed.bm25_N_recent (
            key     text not null,
            version bigint not null default nextval('pgembed.bm25_N_version'),
            length  int not null,
            lexemes tsvector not null,
            partition regclass
        ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
                autovacuum_vacuum_cost_delay = 0, toast_tuple_target = 8160);
        create table pgembed.bm25_N_dead (
            key     text,
            version bigint not null default nextval('pgembed.bm25_N_version'),
            op      "char" not null default 'D',
            recorded_at timestamptz not null default clock_timestamp(),
            length  int,
            lexemes tsvector,
            slot    int,
            partition regclass
        ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
                autovacuum_vacuum_cost_delay = 0, toast_tuple_target = 8160);
        -- They have no primary key, and may be published all the same.
        alter table pgembed.bm25_N_recent replica identity full;
        alter table pgembed.bm25_N_dead replica identity full;

        create table pgembed.bm25_N_doc (
            slot    int primary key,
            key     text not null,
            version bigint not null,
            length  int not null,
            lexemes tsvector,
            partition regclass
        ) with (toast_tuple_target = 8160);
        create index bm25_N_doc_key_idx on pgembed.bm25_N_doc (key, version);
        create table pgembed.bm25_N_term (
            term       text collate "C" primary key,
            df         int not null,
            dense_df   int not null,
            max_impact real not null,
            frozen_idf real
        );
        create table pgembed.bm25_N_posting (
            term       text collate "C",
            first_slot int,
            slots      int[] not null,
            impacts    real[] not null,
            primary key (term, first_slot)
        ) with (toast_tuple_target = 8160);
        create table pgembed.bm25_N_block (
            term    text collate "C",
            block   int,
            impacts vectors.sparsevec not null,
            primary key (term, block)
        ) with (toast_tuple_target = 8160);
        alter table pgembed.bm25_N_recent alter column lexemes set storage main;
        alter table pgembed.bm25_N_dead alter column lexemes set storage main;
        alter table pgembed.bm25_N_doc alter column lexemes set storage main;
        -- A row that just fits a page stays in line, and uncompressed: fetched from
        -- TOAST, the same block takes three times as long.
        alter table pgembed.bm25_N_posting
            alter column slots set storage external, alter column impacts set storage external;
        alter table pgembed.bm25_N_block alter column impacts set storage external;

        comment on table pgembed.bm25_N_recent is 'Documents not packed yet.';
        comment on table pgembed.bm25_N_dead is
            'Tombstones (D), and marks that the table (T) or a partition (P) was truncated, or that all must be read again (R).';
        comment on table pgembed.bm25_N_doc is
            'Packed documents by slot; length in lexemes. Their words are kept only where the source has row security.';
        comment on table pgembed.bm25_N_term is
            'Terms of packed documents: document frequency, how many of those in blocks, the '
            'largest impact, and the idf folded into the blocks.';
        comment on table pgembed.bm25_N_posting is
            'Documents of a term in blocks where it is sparse, by segment; impact without idf.';
        comment on table pgembed.bm25_N_block is
            'Documents of a term in a block where it is dense: impact times frozen idf by slot.';
    $template$, 'vectors.', pgembed._vector_schema() || '.'));
    perform pgembed._give_to_owner(case part when 'version' then 'sequence' else 'table' end, pgembed._bm25_table(p_id, part))
    from unnest(pgembed._bm25_parts()) as part;
end
$create$;
comment on function pgembed._bm25_create_tables(int) is 'Makes the tables of a BM25 index.';

create or replace function pgembed._bm25_key_body(p_source regclass) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('begin return %s; end', pgembed._row_columns(p_source, pgembed._key_text_sql(p_source, 'r'), 'r'))
$$;
comment on function pgembed._bm25_key_body(regclass) is
    'Body of the function that gives a row''s key text; NULL without a primary key.';

create or replace function pgembed._bm25_key_text_sql(b pgembed.bm25, p_alias text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when pgembed._key_text_varies(b.source)
        then format('pgembed.bm25_%s_key(%s)', b.bm25_id, p_alias)
        else pgembed._key_text_sql(b.source, p_alias) end
$$;
comment on function pgembed._bm25_key_text_sql(pgembed.bm25, text) is
    'Expression for the key text of a source row as a BM25 index has it, whatever the settings of the session.';

create or replace function pgembed._bm25_mark(p_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('select %s(''R'')', pgembed._bm25_table(p_id, 'mark'));
end
$$;
comment on function pgembed._bm25_mark(int) is 'Has all rows of a BM25 index read again at the next maintenance.';

create or replace function pgembed._bm25_drop_tables(p_id int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parts record;
begin
    -- Of one kind all at once: policies of one table look into another.
    for parts in select case c.relkind when 'S' then 'sequence' else 'table' end as kind, string_agg(c.oid::regclass::text, ', ') as names
                 from pg_class as c
                 where c.relnamespace = 'pgembed'::regnamespace and c.relkind in ('r', 'S') and c.relname ~ format('^bm25_%s_', p_id)
                 group by c.relkind order by c.relkind desc    -- a sequence after the tables whose default it is
    loop
        execute format('drop %s %s', parts.kind, parts.names);
    end loop;
end
$$;
comment on function pgembed._bm25_drop_tables(int) is 'Drops what there is of the tables of a BM25 index.';

create or replace function pgembed._bm25_make_parts(b pgembed.bm25) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from unnest(pgembed._bm25_parts()) as p where to_regclass(pgembed._bm25_table(b.bm25_id, p)) is null) then
        perform pgembed._bm25_drop_tables(b.bm25_id);
        perform pgembed._bm25_create_tables(b.bm25_id);
        update pgembed.bm25 set state = 'pending' where bm25_id = b.bm25_id;
        delete from pgembed.bm25_pack where bm25_id = b.bm25_id;
        insert into pgembed.bm25_pack (bm25_id) values (b.bm25_id);
    end if;
    perform pgembed._bm25_install_functions(b);
end
$$;
comment on function pgembed._bm25_make_parts(pgembed.bm25) is
    'Makes again the tables, empty, and the functions of a BM25 index that somebody has dropped.';
