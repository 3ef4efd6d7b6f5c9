"""``deepseek-edge run``: one call of a bundle's program."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepseek_edge.cli.output import FormatOption, narration, print_json, print_lines
from deepseek_edge.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepseek_edge.bundle import Bundle
    from deepseek_edge.pipeline.placement import Place

SCHEMA = 1

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A .dse file.")]
ProgramOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Default: the first one that can run here.")
]
EnginesOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where dse_build.py keeps the TensorRT engine that it built."),
]
ThreadsOption = Annotated[
    int, typer.Option(metavar="N", min=0, help="0: as many as this process may use.")
]


def run_command(
    bundle: BundleArgument,
    *,
    input: Annotated[
        Path, typer.Option(metavar="IN.npz|IMAGE", help="Arrays by input name, or an image.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.npz")],
    device: Annotated[str, typer.Option(metavar="DEVICE", help="host or qemu.")] = "host",
    program: ProgramOption = None,
    engines: EnginesOption = None,
    threads: ThreadsOption = 0,
    format: FormatOption = "readable",
) -> None:
    """Verify a bundle and run its program once."""
    place = parse_device(device)
    with narration() as narrator:
        from deepseek_edge.bundle import open_bundle
        from deepseek_edge.pipeline.running import choose_entry, open_program_of

        with (
            open_bundle(bundle) as opened,
            open_program_of(opened, place, program, engines) as chosen,
        ):
            warn_unsigned(opened, narrator.say)
            for line in chosen.remarks:
                narrator.say(line)
            inputs = read_inputs(input, opened)
            entry = choose_entry(chosen.record.entries, inputs)
            outputs = chosen.run(inputs, entry, threads)
        write_outputs(output, outputs)
    tensors = [
        {"name": name, "dtype": str(value.dtype), "shape": list(value.shape)}
        for name, value in outputs.items()
    ]
    if format == "json":
        print_json(
            {
                "schema": SCHEMA,
                "bundle": str(bundle),
                "program": chosen.id,
                "entry": chosen.record.entries[entry].name,
                "device": device,
                "output": str(output),
                "outputs": tensors,
            }
        )
    else:
        print_lines([f"{t['name']}: {t['dtype']}{t['shape']} -> {output}" for t in tensors])


def parse_device(device: str) -> "Place":
    """Read a device's name.

    Raises:
        UnsupportedError: this version can't reach such a device.
    """
    if device == "host":
        return "host"
    if device == "qemu":
        return "qemu"
    raise UnsupportedError(
        f"device {device!r} can't be reached by this version", hint="--device host or qemu"
    )


def warn_unsigned(bundle: "Bundle", say: Any) -> None:
    """Say that nobody vouches for a bundle: its digests only show that it is intact."""
    if bundle.signature is None:
        say(f"warning: {bundle.path} is not signed; run only what you trust")


def read_inputs(path: Path, bundle: "Bundle") -> "dict[str, NDArray[Any]]":
    """Read arrays from an .npz, or an image as the bundle's preprocessing says.

    Raises:
        InputError: the file can't be read, or the bundle has no preprocessing for images.
    """
    import zipfile

    import numpy as np

    if not path.is_file():
        raise InputError(f"there is no input {path}", hint="give an .npz file or an image")
    if path.suffix != ".npz":
        return _read_image(path, bundle)
    try:
        # Opened here: numpy leaves the file of a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, TypeError) as error:
        raise InputError(
            f"{path} is not an .npz file of plain arrays: {error}",
            hint="write it with numpy.savez(path, NAME=array)",
        ) from error


def _read_image(path: Path, bundle: "Bundle") -> "dict[str, NDArray[Any]]":
    from deepseek_edge.preprocess import image_tensor, parse_preprocess

    preprocess = bundle.manifest.preprocess
    names = [spec.name for spec in bundle.manifest.programs[0].entries[0].inputs]
    if preprocess is None or len(names) != 1:
        raise InputError(
            f"{bundle.path} doesn't say how an image becomes its inputs {', '.join(names)}",
            hint="give an .npz, or compile with --eval and an image data set",
        )
    return {names[0]: image_tensor(path, parse_preprocess(preprocess))}


def write_outputs(path: Path, outputs: "dict[str, NDArray[Any]]") -> None:
    """Write arrays by name.

    Raises:
        OutputError: it can't be written; nothing is left of it.
    """
    import io
    import zipfile

    from numpy.lib.format import write_array

    from deepseek_edge.files import write_atomic

    # As numpy.savez, which takes no array called "file" and stamps the clock's time.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in outputs.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                write_array(member, value, allow_pickle=False)
    write_atomic(path, buffer.getvalue())
