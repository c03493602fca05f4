"""The demo: a real corpus, searched while it changes."""
