"""``deepseek-edge target``: which boards there are, what is known of them, and what is wrong."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deepseek_edge.digest import canonical_json

SCHEMA = 1

app = typer.Typer(
    help="List, show and check targets: the boards that models are compiled for.",
    no_args_is_help=True,
)

Format = Annotated[
    Literal["readable", "json"],
    typer.Option("--format", help="readable is for people; json is one object with stable keys."),
]


@app.command("list")
def list_command(format: Format = "readable") -> None:
    """List the targets that can be compiled for."""
    from deepseek_edge.errors import UnsupportedError
    from deepseek_edge.target import list_targets, load_target

    rows: list[dict[str, Any]] = []
    for id in list_targets():
        try:
            target = load_target(id)
        except UnsupportedError as error:  # "host" on a machine that it can't be
            typer.echo(f"{id}: left out: {error}", err=True)
            continue
        keys = ("id", "name", "extends", "arch", "os", "mcpu", "features", "precisions")
        rows.append({key: getattr(target, key) for key in keys})
    if format == "json":
        _print_json({"schema": SCHEMA, "targets": rows})
        return
    width = max(len(row["id"]) for row in rows)
    for row in rows:
        typer.echo(f"{row['id']:{width}}  {row['name']}")


@app.command("show")
def show_command(
    id: Annotated[str, typer.Argument(metavar="ID", help="A target's id, or a TOML file.")],
    format: Format = "readable",
) -> None:
    """Show everything that is known of a target, and where it was read."""
    from deepseek_edge.target import UNVERIFIED, describe_sources, load_target

    target = load_target(id)
    sources = describe_sources(id)
    values = {**asdict(target), "digest": target.digest}
    if format == "json":
        _print_json({"schema": SCHEMA, **values, "sources": sources})
        return
    documents = [source for source in dict.fromkeys(sources.values()) if source != UNVERIFIED]
    marks = {UNVERIFIED: UNVERIFIED} | {text: str(n) for n, text in enumerate(documents, 1)}
    for key, value in values.items():
        if value is not None:
            mark = f" [{marks[sources[key]]}]" if key in sources else ""
            typer.echo(f"{key:26}{_format_value(value)}{mark}")
    typer.echo("".join(f"\n[{marks[text]}] {text}" for text in documents))


@app.command("check")
def check_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A target's TOML file; default all.")
    ] = None,
    format: Format = "readable",
) -> None:
    """Check targets, and list the numbers that nobody has verified."""
    from deepseek_edge.resources import resource_dir
    from deepseek_edge.target import check_target, list_targets

    folder = resource_dir("targets")
    paths = [file] if file is not None else [folder / f"{id}.toml" for id in list_targets()]
    checked = [{"id": path.stem, "unverified": check_target(path)} for path in paths]
    if format == "json":
        _print_json({"schema": SCHEMA, "targets": checked})
        return
    for row in checked:
        unverified = f"unverified: {', '.join(row['unverified'])}" if row["unverified"] else "ok"
        typer.echo(f"{row['id']}: {unverified}")


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(canonical_json(value).decode())


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_format_value(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
