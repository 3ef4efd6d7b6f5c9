"""How the command line talks: one object or plain lines on stdout, narration on stderr."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Format = Literal["readable", "json"]
FormatOption = Annotated[
    Format, typer.Option("--format", help="readable is for people; json has stable keys.")
]


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object on one line of stdout."""
    typer.echo(json.dumps(value, allow_nan=False))


def print_lines(lines: Iterator[str] | list[str]) -> None:
    """Print results on stdout; escape sequences in names are shown, not obeyed."""
    for line in lines:
        typer.echo(printable(line))


def print_error(message: str, hint: str | None, rows: Sequence[str] = ()) -> None:
    """Print what went wrong in one line, a table if there is one, and what to do about it."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = typer.style("error:", fg="red", bold=True) if colour else "error:"
    typer.echo(f"{label} {one_line(message)}", err=True)
    for row in rows:
        typer.echo(f"  {printable(row)}", err=True)
    if hint is not None:
        typer.echo(f"\nhint: {one_line(hint)}", err=True)


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text with control characters written out: a name in a file may hold any."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def bytes_text(size: int) -> str:
    """A size for people, in decimal units."""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


class Narrator:
    """Lines and a progress bar on stderr; without a terminal there is no bar."""

    def __init__(self, progress: "Progress | None") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._progress is None:
            typer.echo(printable(line), err=True)
        else:
            self._progress.console.print(
                printable(line), markup=False, highlight=False, soft_wrap=True
            )

    def advance(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage; it goes away when it is full."""
        if self._progress is None:
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(stage))


@contextmanager
def narration() -> Iterator[Narrator]:
    """A narrator, with a bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield Narrator(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Narrator(progress)


@contextmanager
def warnings_told(narrator: Narrator) -> Iterator[None]:
    """Narrate warnings, one line each, instead of Python's two lines of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                narrator.say(f"warning: {one_line(str(warning.message))}")
