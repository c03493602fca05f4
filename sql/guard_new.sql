-- This script makes a new schema.
do $guard$
begin
    if to_regclass('pgembed.alembic_version') is not null then
        raise exception 'pgembed is installed in this database already'
            using errcode = 'PE012',
                  hint = 'To upgrade: pgembed upgrade, or pgembed sql --from REVISION.';
    end if;
end
$guard$;
