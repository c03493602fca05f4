-- Ends the range in the index of the terms that begin with a prefix.
create or replace function pgembed._bm25_0_after(prefix text) returns text
language plpgsql stable
as $$
begin
    if getdatabaseencoding() = 'UTF8' then    -- where alone there is this character
        return prefix || chr(1114111);
    end if;
    return (select max(term) || 'z' from _bm25_0_term);
end
$$;
comment on function pgembed._bm25_0_after(text) is 'A text after all terms that begin with a prefix.';
