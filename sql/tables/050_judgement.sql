-- What people judged: how relevant a row is to a query.

create table pgembed.judgement (
    source        regclass not null,
    query         text not null check (length(query) <= 100000),    -- as _check_query() does
    key           text not null,
    key_columns   text[] not null,
    key_numbers   int2[] not null,
    grade         smallint not null check (grade between 0 and 3),
    judged_by     name not null default current_user,
    judged_at     timestamptz not null default clock_timestamp(),
    missing_since timestamptz,
    digest        bytea not null,
    primary key (source, judged_by, digest)
);
-- Its policy, and the triggers that fill in what a role does not say, are in functions/search/judge.sql.
alter table pgembed.judgement enable row level security;

comment on table pgembed.judgement is
    'How relevant rows are to queries, as people have said: pgembed.judge() writes it, pgembed.judgements() reads it.';
comment on column pgembed.judgement.key is
    'Primary key of the row as text; a composite key is the text form of a text[].';
comment on column pgembed.judgement.key_columns is
    'Names of the columns of the primary key when the row was judged.';
comment on column pgembed.judgement.key_numbers is
    'Their numbers. Where neither these nor the names are those of now, the key is another: it means no row any more.';
comment on column pgembed.judgement.grade is '0 is not relevant; 1, 2 and 3 more and more so.';
comment on column pgembed.judgement.judged_by is
    'The role, by its name, so that a dump is restored where there is no such role.';
comment on column pgembed.judgement.missing_since is
    'Since when a service has not found the row, its table, or anything declared on that; after an hour the judgement goes.';
comment on column pgembed.judgement.digest is
    '_pair_digest() of query and key.';
