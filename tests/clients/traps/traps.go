// The same searches with arguments as one may write them in Go; lib/pq.
package main

import (
	"database/sql"
	"errors"
	"fmt"
	"log"
	"sort"
	"strings"

	"github.com/lib/pq"
)

func main() {
	db, err := sql.Open("postgres", "postgresql://app:secret@localhost:5432/shop?sslmode=disable")
	if err != nil {
		log.Fatal(err)
	}
	ask := func(name string, query, k, filter any) {
		rows, err := db.Query(`SELECT key FROM pgembed.search('article', $1, k => $2, filter => $3,
			on_missing_query_embedding => 'bm25')`, query, k, filter)
		var failed *pq.Error
		if errors.As(err, &failed) {
			fmt.Println(name, failed.Code)
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		defer rows.Close()
		var keys []string
		for rows.Next() {
			var key string
			if err := rows.Scan(&key); err != nil {
				log.Fatal(err)
			}
			keys = append(keys, key)
		}
		sort.Strings(keys)
		fmt.Println(strings.TrimSpace(name + " " + strings.Join(keys, " ")))
	}
	cheap := `{"price": {"$lt": 300}}`
	ask("k-number", "cheap flights", 10, cheap)
	ask("k-big", "cheap flights", int64(10), cheap)
	ask("k-string", "cheap flights", "10", cheap)
	ask("k-too-big", "cheap flights", int64(1)<<40, cheap)
	ask("filter-object", "cheap flights", 10, []byte(cheap))
	ask("filter-string", "cheap flights", 10, `"{\"price\": {\"$lt\": 300}}"`)
	ask("filter-null", "cheap flights", 10, nil)
	ask("filter-json-null", "cheap flights", 10, "null")
	ask("filter-empty", "cheap flights", 10, "{}")
	ask("filter-no-object", "cheap flights", 10, "[1]")
	ask("filter-keys", "cheap flights", 10, `{"id": {"$in": [1, "2"]}}`)
	ask("quotes", `cheap "o'clock" \ $1 %s ? :k {} flights`, 10, `{"title": "Lisbon for less"}`)
	ask("hostile", "cheap'); drop table article; --", 10, `{"title'": "x"}`)
	ask("query-null", nil, 10, nil)
	ask("unicode", "cheap ✈️ 😀", 10, `{"title": "😀"}`)
}
