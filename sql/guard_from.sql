-- This script begins at one revision, whose name takes the place of REVISION.
do $guard$
declare
    actual text := (select version_num from pgembed.alembic_version);
begin
    if actual is distinct from 'REVISION' then
        raise exception 'pgembed''s schema is at revision %, not REVISION', actual
            using errcode = 'PE012', hint = format('pgembed sql --from %s', actual);
    end if;
end
$guard$;
