<?php
// The same searches with arguments as one may write them in PHP; PDO.
$db = new PDO("pgsql:host=localhost;port=5432;dbname=shop", "app", "secret");
$cheap = '{"price": {"$lt": 300}}';

function ask(string $name, ?string $query, mixed $k, ?string $filter): void
{
    global $db;
    $statement = $db->prepare("SELECT key FROM pgembed.search('article', ?, k => ?, filter => ?,
                                                              on_missing_query_embedding => 'bm25')");
    try {
        $statement->execute([$query, $k, $filter]);
        $keys = $statement->fetchAll(PDO::FETCH_COLUMN);
        sort($keys);
        echo trim("$name " . implode(" ", $keys)), "\n";
    } catch (PDOException $error) {
        echo "$name {$error->getCode()}\n";
    }
}

ask("k-number", "cheap flights", 10, $cheap);
ask("k-string", "cheap flights", "10", $cheap);
ask("k-too-big", "cheap flights", 2 ** 40, $cheap);
ask("filter-string", "cheap flights", 10, json_encode($cheap));
ask("filter-null", "cheap flights", 10, null);
ask("filter-json-null", "cheap flights", 10, "null");
ask("filter-empty", "cheap flights", 10, json_encode((object) []));
ask("filter-no-object", "cheap flights", 10, "[1]");
ask("filter-keys", "cheap flights", 10, json_encode(["id" => ['$in' => [1, "2"]]]));
ask("quotes", "cheap \"o'clock\" \\ \$1 %s ? :k {} flights", 10, '{"title": "Lisbon for less"}');
ask("hostile", "cheap'); drop table article; --", 10, json_encode(["title'" => "x"]));
ask("query-null", null, 10, null);
ask("unicode", "cheap ✈️ 😀", 10, json_encode(["title" => "😀"]));
