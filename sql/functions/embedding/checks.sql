-- What a declaration must be: the options, and how they go together.

create or replace function pgembed._check_attempts(p_max_attempts bigint) returns smallint
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_max_attempts not between 1 and 1000 then
        raise exception 'max_attempts must be between 1 and 1000, not %', p_max_attempts
            using errcode = 'PE007', hint = 'It counts the first attempt too.';
    end if;
    return p_max_attempts;
end
$$;
comment on function pgembed._check_attempts(bigint) is 'max_attempts in its range, or PE007.';

create or replace function pgembed._object_keys(p_object jsonb) returns setof text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_object_keys(case when jsonb_typeof(p_object) = 'object' then p_object end)
$$;
comment on function pgembed._object_keys(jsonb) is 'Keys of an object; none of what is none.';

create or replace function pgembed._check_reset(p_reset text[], p_options text[], p_given text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    option text;
begin
    foreach option in array coalesce(p_reset, '{}') loop
        if coalesce(option <> all (p_options), true) then
            raise exception 'there is no option "%" to reset', coalesce(option, 'NULL') using errcode = 'PE007',
                hint = format('Options: %s.', array_to_string(p_options, ', '));
        elsif option = any (p_given) then
            raise exception 'option "%" is given, and to be reset', option using errcode = 'PE007',
                hint = 'Give its value, or name it in reset, which puts back the default.';
        end if;
    end loop;
end
$$;
comment on function pgembed._check_reset(text[], text[], text[]) is
    'PE007 for names in reset that are no options, or of options that are given as well.';

create or replace function pgembed._require_source(p_source oid, p_name text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if pgembed._table_sql(p_source) is null then
        raise exception 'the table of "%" has been dropped', p_name using errcode = 'PE003',
            hint = 'Drop what was declared over it too: pgembed.drop_embedding, pgembed.drop_bm25.';
    end if;
end
$$;
comment on function pgembed._require_source(oid, text) is
    'PE003 for an embedding or BM25 index that is past repair.';

create or replace function pgembed._check_declaration(e pgembed.embedding) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    model pgembed.model;
    option text;
    value jsonb;
begin
    select * into model from pgembed.model where model_id = e.model_id;
    if e.dimensions > model.dimensions or e.dimensions < 1 then
        raise exception 'model "%" has % dimensions, so % are not possible',
            model.name, model.dimensions, e.dimensions using errcode = 'PE006',
            hint = 'Fewer than the model''s are possible for Matryoshka models; leave dimensions '
                   'out to keep all.';
    end if;
    if e.reduction not in ('truncate', 'pca') then
        raise exception 'unknown reduction "%"', e.reduction using errcode = 'PE007',
            hint = 'It is truncate (the first dimensions of the model''s vectors) or pca (a projection learnt from the table''s vectors).';
    elsif e.reduction = 'pca' and e.dimensions = model.dimensions then
        raise exception 'nothing is reduced with all % dimensions of model "%"', e.dimensions, model.name using errcode = 'PE007',
            hint = 'Give fewer: dimensions => ...';
    elsif e.reduction = 'pca' and e.storage = 'column' then
        raise exception 'vectors in a column are not projected' using errcode = 'PE007',
            detail = 'A projection is learnt from whole vectors, and the shorter ones are made beside those.',
            hint = 'Use storage => ''table'', or reduction => ''truncate''.';
    end if;
    if e.distance is null or e.distance not in ('cosine', 'inner_product', 'l2') then
        raise exception 'unknown distance "%"', e.distance using errcode = 'PE007',
            hint = 'Distances are cosine, inner_product and l2.';
    end if;
    if e.storage not in ('table', 'column') then
        raise exception 'unknown storage "%"', e.storage using errcode = 'PE007',
            hint = 'Storage is ''table'' (a side table, the default) or ''column''.';
    end if;
    if e.partitions not between 1 and 256 then
        raise exception 'partitions is out of range: %', e.partitions using errcode = 'PE007',
            detail = 'A search looks into each of them.', hint = 'It is 1 (one table, the default) to 256.';
    elsif e.partitions > 1 and e.storage = 'column' then
        raise exception 'vectors in a column are not partitioned' using errcode = 'PE007',
            detail = format('They are in table %s itself.', e.source), hint = 'Use storage => ''table'', or leave partitions out.';
    end if;
    if e.vector_type not in ('vector', 'halfvec') then
        raise exception 'unknown vector_type "%"', e.vector_type using errcode = 'PE007',
            hint = 'Vector types are vector (4 bytes a dimension) and halfvec (2 bytes).';
    end if;
    if e.chunking not in ('sentences', 'none') then
        raise exception 'unknown chunking "%"', e.chunking using errcode = 'PE007',
            hint = 'Chunking is ''sentences'' or ''none'' (one vector a row; the model cuts long texts).';
    end if;
    if e.storage = 'column' and e.chunking <> 'none' then
        raise exception 'column storage holds one vector a row, so it cannot chunk'
            using errcode = 'PE007',
            hint = 'Use chunking => ''none'', or storage => ''table''.';
    end if;
    if e.storage = 'column' and pgembed._is_partitioned(e.source) then
        raise exception 'column storage is not possible on the partitioned table %', e.source
            using errcode = 'PE007',
            hint = 'Use storage => ''table'': an index cannot be built CONCURRENTLY on a '
                   'partitioned table.';
    end if;
    if e.chunk_size <= 0 or e.chunk_size > model.max_tokens then
        raise exception 'chunk_size % is not possible with model "%"', e.chunk_size, model.name
            using errcode = 'PE007',
            hint = format('It must be between 1 and %s tokens.', coalesce(model.max_tokens::text, 'the model''s maximum'));
    end if;
    if e.chunk_overlap < 0 or e.chunk_overlap >= coalesce(e.chunk_size, model.max_tokens, e.chunk_overlap + 1) then
        raise exception 'chunk_overlap % is not possible', e.chunk_overlap using errcode = 'PE007',
            hint = 'It must be at least 0 and less than chunk_size, in tokens.';
    end if;
    if e.wake not in ('notify', 'poll') then
        raise exception 'unknown wake "%"', e.wake using errcode = 'PE007',
            hint = 'Wake is ''notify'', or ''poll'' for applications that use two-phase commit.';
    end if;
    perform pgembed._check_query_encoder(e.query_encoder);
    if e.query_encoder = 'static' and e.storage = 'column' then
        raise exception 'an embedding with column storage has no query encoder' using errcode = 'PE007',
            detail = 'A query encoder learns from the chunks of a side table.', hint = 'Use storage => ''table'', or query_encoder => ''model''.';
    end if;
    if e.index_kind not in ('hnsw', 'ivfflat', 'none') then
        raise exception 'unknown index "%"', e.index_kind using errcode = 'PE007',
            hint = 'Indexes are hnsw, ivfflat and none (exact search).';
    end if;
    if jsonb_typeof(e.index_options) <> 'object' then
        raise exception 'index_options must be a JSON object, not %', e.index_options
            using errcode = 'PE007', hint = 'For example {"m": 16, "ef_construction": 64}.';
    elsif jsonb_typeof(e.index_options -> 'binary') <> 'boolean' then
        raise exception 'index option binary is true or false, not %', e.index_options -> 'binary' using errcode = 'PE007',
            hint = 'With true the index has the signs of the vectors, and is much smaller.';
    elsif e.index_kind <> 'none' and e.distance = 'l2' and pgembed._index_is_binary(e) then
        raise exception 'index % on % of % dimensions does not support distance l2',
            e.index_kind, e.vector_type, e.dimensions using errcode = 'PE007',
            detail = concat(case when e.index_options ? 'binary' then 'With binary its index has' else 'So many dimensions are indexed by' end,
                            ' their signs (binary quantisation), which tell of angles, not of lengths.'),
            hint = 'Use distance cosine or inner_product, or fewer dimensions (up to 2,000 as vector, '
                   '4,000 as halfvec) without binary, or index => ''none''.';
    end if;
    for option, value in select * from jsonb_each(e.index_options) loop
        if not ((e.index_kind = 'hnsw' and option in ('m', 'ef_construction', 'binary'))
                or (e.index_kind = 'ivfflat' and option in ('lists', 'binary'))) then
            raise exception 'index % has no option "%"', e.index_kind, option using errcode = 'PE007',
                hint = 'hnsw takes m and ef_construction, ivfflat takes lists, both take binary.';
        end if;
        continue when option = 'binary';
        if jsonb_typeof(value) <> 'number' or value::text !~ '^\d{1,6}$'
           or not (value::int <@ (case option when 'm' then int4range(2, 100, '[]')
                                              when 'ef_construction' then int4range(4, 1000, '[]')
                                              else int4range(1, 32768, '[]') end)) then
            raise exception 'index option % is out of range: %', option, value using errcode = 'PE007',
                hint = 'm is 2 to 100, ef_construction 4 to 1000, lists 1 to 32768.';
        end if;
    end loop;
    if e.index_kind = 'hnsw'
       and coalesce((e.index_options ->> 'ef_construction')::int, 64) < 2 * coalesce((e.index_options ->> 'm')::int, 16) then
        raise exception 'ef_construction must be at least twice m' using errcode = 'PE007',
            hint = format('m is %s: give ef_construction of at least %s.',
                          coalesce(e.index_options ->> 'm', '16'),
                          2 * coalesce((e.index_options ->> 'm')::int, 16));
    end if;
end
$$;
comment on function pgembed._check_declaration(pgembed.embedding) is
    'PE006 or PE007 for a declaration whose options are wrong or do not go together.';

create or replace function pgembed._default_chunking(p_storage text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case p_storage when 'column' then 'none' else 'sentences' end
$$;
comment on function pgembed._default_chunking(text) is 'How texts are cut where nothing is said.';

create or replace function pgembed._of_text(e pgembed.embedding, t pgembed.captured_text, p_default_chunking boolean) returns pgembed.embedding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    model pgembed.model;
    had_images constant boolean := exists (select from pgembed.captured_text where text_id = e.text_id and kind <> 'text');
begin
    e.text_id := t.text_id;
    select * into model from pgembed.model where model_id = e.model_id;
    if t.kind = 'text' then
        if model.images then
            raise notice 'model "%" will encode the expression as a text', model.name
                using hint = 'Images are what an expression of type bytea gives, the bytes of their files; a path or an address is one with pgembed.image_at(...).';
        end if;
        if p_default_chunking and had_images then
            e.chunking := pgembed._default_chunking(e.storage);
        end if;
        return e;
    end if;
    if p_default_chunking then
        e.chunking := 'none';
    end if;
    if e.chunking <> 'none' or e.chunk_size is not null or e.chunk_overlap is not null then
        raise exception 'an image is not cut into chunks' using errcode = 'PE007',
            detail = format('The expression gives images: %s.', t.text_expression),
            hint = 'Leave chunking, chunk_size and chunk_overlap out: an image has one vector.';
    end if;
    if e.query_encoder = 'static' then
        raise exception 'an embedding of images has no query encoder' using errcode = 'PE007',
            detail = 'A query encoder learns from texts and their vectors.', hint = 'Use query_encoder => ''model''.';
    end if;
    if not model.images then
        raise exception 'model "%" encodes no images', model.name using errcode = 'PE007',
            detail = format('The expression gives images: %s.', t.text_expression),
            hint = 'Name a model of images and texts, such as model => ''clip-ViT-B-32''. For a text give an expression of type text: '
                   'convert_from(..., ''utf8'').';
    end if;
    return e;
end
$$;
comment on function pgembed._of_text(pgembed.embedding, pgembed.captured_text, boolean) is
    'An embedding over a captured text, checked against what the text is; images are not cut into chunks.';

create or replace function pgembed._check_not_own_column(e pgembed.embedding) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    t constant pgembed.captured_text := pgembed._text(e.text_id);
begin
    if e.column_name = any (t.source_columns) then
        raise exception 'the text expression reads column "%", the vector that it is to make', e.column_name
            using errcode = 'PE004', detail = format('Expression: %s', t.text_expression),
            hint = 'Name the columns instead of the whole row, or use storage => ''table''.';
    end if;
end
$$;
comment on function pgembed._check_not_own_column(pgembed.embedding) is
    'PE004 for a text that would be made of its own vector.';
