-- Numbers and vectors that the stages of BM25 share. All are inlined where they are called.
--
-- Documents are numbered by slot, 2,000 slots to a block. The impacts of a term in a block
-- where it is dense are one vector, which pgvector adds, compares and multiplies in C. Its
-- functions are bound here, once: stages run with pgvector off their search_path,
-- because others may be able to create objects in its schema.

create or replace function pgembed._bm25_block_size() returns int
language sql immutable parallel safe return 2000;
comment on function pgembed._bm25_block_size() is 'Slots of a block.';

create or replace function pgembed._bm25_dense_from() returns int
language sql immutable parallel safe return 16;
comment on function pgembed._bm25_dense_from() is 'Documents of a block that have a term, from which on it is dense there.';

create or replace function pgembed._bm25_prefix_most() returns int
language sql immutable parallel safe return 50;
comment on function pgembed._bm25_prefix_most() is 'Most terms that the beginning of a word stands for.';

create or replace function pgembed._bm25_smallest_merge() returns int
language sql immutable parallel safe return 20000;
comment on function pgembed._bm25_smallest_merge() is 'Slots below which a segment is joined with others, and an index is not read anew for empty slots.';

create or replace function pgembed._bm25_pack_size() returns int
language sql immutable parallel safe return 1000000;
comment on function pgembed._bm25_pack_size() is 'Most documents that become one segment at once.';

create or replace function pgembed._bm25_weigh_size() returns bigint
language sql immutable parallel safe return 2000000;
comment on function pgembed._bm25_weigh_size() is 'About how many entries are weighed anew at once.';

create or replace function pgembed._bm25_exactness() returns float8
language sql immutable parallel safe return 0.99999::float8;
comment on function pgembed._bm25_exactness() is
    'Share of a stored score that is left, at least, once float4 has rounded its parts.';

create or replace function pgembed._bm25_rounded(score float8) returns float8
language sql immutable parallel safe return round(score * 1e10::float8) / 1e10::float8;
comment on function pgembed._bm25_rounded(float8) is
    'A score without its last digits, in which sums of the same parts in another order differ.';

create or replace function pgembed._bm25_drift() returns float8
language sql immutable parallel safe return 1.1::float8;
comment on function pgembed._bm25_drift() is
    'How far idf or average length may move before what is stored is weighed anew: by a tenth.';

create or replace function pgembed._bm25_block_of(slot int) returns int
language sql immutable parallel safe return slot / pgembed._bm25_block_size();
comment on function pgembed._bm25_block_of(int) is 'Block of a slot.';

create or replace function pgembed._bm25_place_of(slot int) returns int
language sql immutable parallel safe return slot % pgembed._bm25_block_size() + 1;
comment on function pgembed._bm25_place_of(int) is 'Place of a slot in its block, from 1.';

create or replace function pgembed._bm25_slot(block int, place int) returns int
language sql immutable parallel safe return block * pgembed._bm25_block_size() + place - 1;
comment on function pgembed._bm25_slot(int, int) is 'Slot of a place in a block.';

create or replace function pgembed._bm25_norm(length int, avgdl float8, k1 float8, b float8) returns float8
language sql immutable parallel safe
return k1 * (1::float8 - b + b * length::float8 / avgdl);
comment on function pgembed._bm25_norm(int, float8, float8, float8) is
    'What the frequency of a word counts against, in a document of a length: the more, the longer it is.';

create or replace function pgembed._bm25_weight(tf float8, norm float8, k1 float8) returns float8
language sql immutable parallel safe
return tf * (k1 + 1::float8) / (tf + norm);
comment on function pgembed._bm25_weight(float8, float8, float8) is
    'The impact of a word: the part of its score that does not change with idf.';

create or replace function pgembed._bm25_frequency(impact float8, norm float8, k1 float8) returns float8
language sql immutable parallel safe
return round(impact * norm / greatest(k1 + 1::float8 - impact, 1e-9::float8));
comment on function pgembed._bm25_frequency(float8, float8, float8) is
    'How often a document has a word, from the impact that is stored: a whole number, so rounding gives it exactly.';

create or replace function pgembed._bm25_idf(rows float8, df float8) returns float8
language sql immutable parallel safe
return ln(1::float8 + (greatest(rows - df, 0::float8) + 0.5::float8) / (df + 0.5::float8));
comment on function pgembed._bm25_idf(float8, float8) is 'What a word counts that df of so many documents have.';

create or replace function pgembed._bm25_vector(numbers real[]) returns vector
language sql immutable parallel safe return numbers::vector;
comment on function pgembed._bm25_vector(real[]) is 'A vector of these numbers.';

create or replace function pgembed._bm25_numbers(impacts vector) returns real[]
language sql immutable parallel safe return impacts::real[];
comment on function pgembed._bm25_numbers(vector) is 'The numbers of a vector.';

create or replace function pgembed._bm25_pack(impacts vector) returns sparsevec
language sql immutable parallel safe return impacts::sparsevec;
comment on function pgembed._bm25_pack(vector) is 'A vector as it is stored: without its zeros.';

create or replace function pgembed._bm25_unpack(impacts sparsevec) returns vector
language sql immutable parallel safe return impacts::vector;
comment on function pgembed._bm25_unpack(sparsevec) is 'A stored vector with its zeros, as it is calculated with.';

create or replace function pgembed._bm25_sparse(entries text) returns sparsevec
language sql immutable parallel safe
return ('{' || entries || '}/' || pgembed._bm25_block_size()::text)::sparsevec;
comment on function pgembed._bm25_sparse(text) is 'A vector from its entries that are not zero, place:number,place:number ...';

create or replace function pgembed._bm25_entries(impacts sparsevec, out place int, out impact real) returns setof record
language sql immutable parallel safe
begin atomic
    select split_part(entry, ':', 1)::int, split_part(entry, ':', 2)::real
    from string_to_table(trim('{}' from split_part(impacts::text, '/', 1)), ',') as entry;
end;
comment on function pgembed._bm25_entries(sparsevec) is
    'The entries of a stored vector that are not zero, and their places: by its text, as only few of its places have one.';

create or replace function pgembed._bm25_impact(impacts vector, place int) returns float8
language sql immutable parallel safe return inner_product(subvector(impacts, place, 1), '[1]');
comment on function pgembed._bm25_impact(vector, int) is 'The number at a place of a vector.';

create or replace function pgembed._bm25_multiply(impacts vector, factors vector) returns vector
language sql immutable parallel safe return vector_mul(impacts, factors);
comment on function pgembed._bm25_multiply(vector, vector) is 'Products, place by place.';

create or replace function pgembed._bm25_places(impacts vector) returns bit
language sql immutable parallel safe return binary_quantize(impacts);
comment on function pgembed._bm25_places(vector) is 'Bits: which places of a vector are above 0.';

create or replace function pgembed._bm25_places_above(impacts vector, threshold vector) returns bit
language sql immutable parallel safe return binary_quantize(vector_sub(impacts, threshold));
comment on function pgembed._bm25_places_above(vector, vector) is 'Bits: which places of a vector are above those of another.';

create or replace aggregate pgembed._bm25_sum(vector) (sfunc = vector_add, stype = vector, parallel = safe);
comment on aggregate pgembed._bm25_sum(vector) is 'Sum of vectors of one length, by pgvector''s addition.';

create or replace function pgembed._bm25_tf_bounds() returns real[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- With all weights 1, ts_rank of one lexeme is the sum of 1 / j^2 up to tf, over
    -- pi^2 / 6. Bounds between those sums turn it back into tf, by width_bucket:
    -- many times faster than unnesting the tsvector.
    select array_agg(((total - 0.25 / (j * j)) / 1.64493406685)::real order by j)
    from (select j, sum(1.0 / (j * j)) over (order by j) as total from generate_series(1, 256) as j) as sums
$$;
comment on function pgembed._bm25_tf_bounds() is
    'Where a lexeme''s ts_rank passes from one term frequency to the next.';
