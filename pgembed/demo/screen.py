"""How the demo shows things: a terminal gets bars, a file gets lines."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.syntax import Syntax
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

_LINE_EVERY_S = 5.0


class Screen:
    """The demo's output."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def title(self, text: str) -> None:
        """Begin a section."""
        self.console.print()
        if self.console.is_terminal:
            self.console.rule(f"[bold]{text}", align="left")
        else:
            self.console.print(f"== {text}", markup=False)

    def say(self, text: str) -> None:
        """Print a paragraph; rich markup is understood."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def sql(self, statement: str) -> None:
        """Print a statement as one would type it."""
        if self.console.is_terminal:
            self.console.print(
                Syntax(statement, "sql", background_color="default", word_wrap=True)
            )
        else:
            self.console.print(statement, markup=False, highlight=False, soft_wrap=True)

    def hits(self, rows: Iterable[tuple[float, str, str]]) -> None:
        """Print hits: similarity, name, first line of the text."""
        found = list(rows)
        widest = max((len(name) for _, name, _ in found), default=0)
        for similarity, name, text in found:
            line = Text("  ")
            line.append(f"{similarity:.3f}", style="cyan")
            line.append(f"  {name.ljust(widest)}", style="bold")
            line.append(f"  {first_line(text)}", style="dim")
            line.truncate(self.console.width, overflow="ellipsis")
            self.console.print(line, soft_wrap=True)

    def ranks(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Print hits of both arms side by side: vectors, words, name, excerpt."""
        found = [("vectors", "words", "", ""), *rows]
        widths = [max(len(row[i]) for row in found) for i in range(3)]
        for number, (vectors, words, name, text) in enumerate(found):
            line = Text("  ")
            style = "cyan" if number else "dim"
            line.append(vectors.ljust(widths[0]), style=style)
            line.append(f"  {words.ljust(widths[1])}", style=style)
            line.append(f"  {name.ljust(widths[2])}", style="bold")
            line.append("  ")
            line.append_text(highlighted(text))
            line.rstrip()
            line.truncate(self.console.width, overflow="ellipsis")
            self.console.print(line, soft_wrap=True)

    def fill(self, total: int) -> Fill:
        """Show how a table fills."""
        return Fill(self.console, total)


class Fill:
    """A progress bar with rows a second and the time to go; use as a context."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._started = time.monotonic()
        self._first = 0
        self._printed = self._started
        self._progress = Progress(
            TextColumn("encoding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("encoding", total=total, pace="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, done: int) -> None:
        """Show that `done` rows have their vector."""
        now = time.monotonic()
        # The pace counts from the first rows that are done, not from the wait before.
        if not self._first:
            self._first, self._started = done, now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        pace = ""
        if done > self._first and now > self._started:
            remaining = timedelta(seconds=round((self._total - done) / rate))
            pace = f"{rate:.0f} rows/s  ETA {remaining}"
        self._progress.update(self._task, completed=done, pace=pace)
        due = now - self._printed >= _LINE_EVERY_S
        if done and due and not self._console.is_terminal:
            self._printed = now
            self._console.print(
                f"encoding {done}/{self._total}  {pace}", highlight=False, markup=False
            )


def highlighted(snippet: str) -> Text:
    """Show an excerpt on one line, its words (between <b> and </b>) in bold."""
    line = Text(style="dim")
    bold = False
    for part in re.split(r"(</?b>)", " ".join(snippet.split())):
        if part in ("<b>", "</b>"):
            bold = part == "<b>"
        else:
            line.append(part, style="bold not dim" if bold else "")
    return line


def first_line(text: str) -> str:
    """First line of a text that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
