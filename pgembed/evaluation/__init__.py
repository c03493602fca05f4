"""How good a search is: measures over judged queries, and an index's recall."""
