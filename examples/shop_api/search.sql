-- The same table from psql: psql -v query=warm -f search.sql postgresql://…
call pgembed.encode(:'query');

select (doc).name, round(score::numeric, 4) as score
from pgembed.hybrid_search(null::product, :'query', k => 3);
