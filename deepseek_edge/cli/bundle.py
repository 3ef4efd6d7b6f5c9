"""``deepseek-edge bundle``: look into a bundle, check it, unpack it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from deepseek_edge.bundle import Bundle
    from deepseek_edge.manifest import ProgramRecord

SCHEMA = 1

app = typer.Typer(help="Look into a bundle, check it, unpack it.", no_args_is_help=True)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A .dse file.")]
Format = Annotated[
    Literal["readable", "json"],
    typer.Option("--format", help="readable is for people; json is one object with stable keys."),
]


@app.command()
def info(bundle: BundlePath, format: Format = "readable") -> None:
    """Verify a bundle and say what is in it."""
    import msgspec

    from deepseek_edge.bundle import open_bundle

    with open_bundle(bundle) as opened:
        manifest = msgspec.to_builtins(opened.manifest)
        _print(format, _summary(opened) | {"manifest": manifest}, _describe(opened))


@app.command()
def verify(bundle: BundlePath, format: Format = "readable") -> None:
    """Check the layout, every digest and the manifest of a bundle; load nothing of it."""
    from deepseek_edge.bundle import open_bundle

    with open_bundle(bundle) as opened:
        lines = [f"{bundle}: all {len(opened.names)} members are intact", _signature_line(opened)]
        _print(format, _summary(opened), lines)


@app.command()
def extract(
    bundle: BundlePath,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="A folder that does not exist yet."),
    ] = None,
    format: Format = "readable",
) -> None:
    """Verify a bundle and write its members into a fresh folder (default: named like it)."""
    from deepseek_edge.bundle import open_bundle

    directory = Path(bundle.stem) if output is None else output
    with open_bundle(bundle) as opened:
        opened.extract(directory)
        lines = [f"{len(opened.names)} files in {directory}", _signature_line(opened)]
        _print(format, _summary(opened) | {"directory": str(directory)}, lines)


def _print(format: str, result: dict[str, Any], lines: list[str]) -> None:
    import json

    if format == "json":
        typer.echo(json.dumps(result))
        return
    for line in lines:
        # Text in a bundle may hold escape sequences that a terminal would obey.
        typer.echo("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


def _summary(bundle: "Bundle") -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "bundle": str(bundle.path),
        "size_bytes": bundle.size_bytes,
        "digests_sha256": bundle.digests_sha256,
        "signature": "none" if bundle.signature is None else "not checked",
        "members": list(bundle.names),
    }


def _signature_line(bundle: "Bundle") -> str:
    if bundle.signature is None:
        return "signature: none, anyone could have made this bundle"
    return "signature: present, not checked"


def _describe(bundle: "Bundle") -> list[str]:
    manifest = bundle.manifest
    tools = ", ".join(
        f"{name} {version}"
        for name in manifest.tools.__struct_fields__
        if (version := getattr(manifest.tools, name)) is not None
    )
    return [
        f"bundle:    {bundle.path} ({bundle.size_bytes / 1e6:.2f} MB, intact)",
        _signature_line(bundle),
        f"model:     {manifest.model.name} (sha256 {manifest.model.sha256[:16]}...)",
        f"target:    {manifest.target.id}",
        f"tools:     {tools}",
        "programs, in order of preference:",
        *(line for program in manifest.programs for line in _describe_program(program)),
    ]


def _describe_program(program: "ProgramRecord") -> list[str]:
    parity = program.parity_graph
    judged = "NOT RUN" if program.verified is None else f"verified on {program.verified}"
    if parity is not None:
        judged += f", error at most {parity.max_abs:.2g} of the range in {parity.samples} samples"
    lines = [
        f"  {program.id} ({program.backend}, {program.precision})",
        f"    {program.size_bytes} bytes, of which weights {program.weights_bytes}, "
        f"code {program.code_bytes}; arena {program.arena_bytes} bytes",
        f"    CPU features: {' '.join(program.features) or 'none beyond the base'}"
        if program.gpu is None
        else f"    GPU: {program.gpu}",
        f"    {judged}",
    ]
    for entry in program.entries:
        lines.append(f"    {entry.name}: {len(entry.steps)} steps")
        for direction, specs in (("in ", entry.inputs), ("out", entry.outputs)):
            lines += [f"      {direction} {s.name}: {s.dtype}{list(s.shape)}" for s in specs]
    return lines
