# The same searches with arguments as one may write them in Ruby; pg.
require "json"
require "pg"

DB = PG.connect("postgresql://app:secret@localhost:5432/shop")
CHEAP = JSON.generate({ price: { "$lt" => 300 } })

def ask(name, query, k, filter)
  rows = DB.exec_params(<<~SQL, [query, k, filter])
    SELECT key FROM pgembed.search('article', $1, k => $2, filter => $3,
                                   on_missing_query_embedding => 'bm25')
  SQL
  puts "#{name} #{rows.map { |row| row["key"] }.sort.join(" ")}"
rescue PG::Error => error
  puts "#{name} #{error.result.error_field(PG::PG_DIAG_SQLSTATE)}"
end

ask("k-number", "cheap flights", 10, CHEAP)
ask("k-string", "cheap flights", "10", CHEAP)
ask("k-too-big", "cheap flights", 2**40, CHEAP)
ask("filter-string", "cheap flights", 10, JSON.generate(CHEAP))
ask("filter-null", "cheap flights", 10, nil)
ask("filter-json-null", "cheap flights", 10, "null")
ask("filter-empty", "cheap flights", 10, "{}")
ask("filter-no-object", "cheap flights", 10, "[1]")
ask("filter-keys", "cheap flights", 10, JSON.generate({ id: { "$in" => [1, "2"] } }))
ask("quotes", "cheap \"o'clock\" \\ $1 %s ? :k {} flights", 10,
    JSON.generate({ title: "Lisbon for less" }))
ask("hostile", "cheap'); drop table article; --", 10, JSON.generate({ "title'" => "x" }))
ask("query-null", nil, 10, nil)
ask("unicode", "cheap ✈️ 😀", 10, JSON.generate({ title: "😀" }))
