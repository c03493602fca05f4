-- From an ordinary table to a search by meaning, in psql.
-- Wants: pgembed install, and a running pgembed serve.

create table product (
    sku         text primary key,
    name        text not null,
    description text not null,
    category    text not null,
    price       numeric not null
);

insert into product values
    ('P-1', 'Merino base layer', 'Soft wool shirt that insulates on cold days.', 'clothing', 79),
    ('P-2', 'Rain shell', 'Waterproof jacket for wet weather.', 'clothing', 149),
    ('P-3', 'Down parka', 'Insulated coat for freezing temperatures.', 'clothing', 320),
    ('P-4', 'Trail map', 'Printed map of mountain paths.', 'books', 15),
    ('P-5', 'Espresso maker', 'Brews strong coffee on the stove.', 'kitchen', 45);

select pgembed.create_embedding('product', $$ name || '. ' || description $$);

-- The service encodes the rows; this waits until it has.
do $$
begin
    for attempt in 1 .. 600 loop
        exit when (select waiting + encoding = 0 from pgembed.status where name = 'product_embedding');
        perform pg_sleep(0.1);
        commit;
    end loop;
end
$$;

call pgembed.encode('something warm for winter');

select (doc).sku, (doc).name, round(similarity::numeric, 2) as similarity
from pgembed.vector_search(null::product, 'something warm for winter', k => 3);

select (doc).sku, (doc).name, (doc).price
from pgembed.vector_search(null::product, 'something warm for winter', k => 1,
                           filter => '{"category": "clothing", "price": {"$lt": 100}}');

select (doc).sku, (doc).name, round(similarity::numeric, 2) as similarity
from pgembed.similar(null::product, 'P-3', 2);

-- A change is followed by itself.
update product set description = 'Heated vest that keeps you cosy in the snow.' where sku = 'P-5';
delete from product where sku = 'P-1';
