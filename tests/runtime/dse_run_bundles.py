"""dse-run in two builds, and bundles for it that hold a real program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepseek_edge.runtime.programs import dse_run_sources
from deepseek_edge.target import load_target
from tests.bundle_samples import pack, raw_members
from tests.linear_program import build, expected, random_input

PROGRAM = "programs/cpu-float32/model.so"
INDEX = (
    b"cpu-float32 0 input 0 0.0 golden/x.bin\n"
    b"cpu-float32 0 output 0 1e-05 golden/y.bin\n"
    b"cpu-float32 0 output 1 0.0 golden/z.bin\n"
)


@dataclass(frozen=True)
class Run:
    """How a run of dse-run ended."""

    status: int
    out: str
    err: str


def run(program: Path, *arguments: str | Path, variables: dict[str, str] | None = None) -> Run:
    # An empty environment: no cache, unless a test names a folder for it.
    environment = {"XDG_RUNTIME_DIR": "/nonexistent", **(variables or {})}
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def is_refused(result: Run) -> bool:
    """Exit status 5, nothing on stdout, and one line that says why on stderr."""
    one_line = result.err.startswith("error: ") and result.err.index("\n") == len(result.err) - 1
    return result.status == 5 and result.out == "" and one_line


def build_with_gcc(directory: Path, *flags: str, sources: tuple[Path, ...] = ()) -> Path:
    warnings = ("-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
    output = directory / "dse-run"
    files = map(str, sources or dse_run_sources())
    subprocess.run(
        ["gcc", *warnings, *flags, *files, "-ldl", "-o", str(output)], check=True, timeout=60
    )
    return output


def program_members(directory: Path, features: str = "") -> dict[str, bytes]:
    """Members of a bundle for this machine, but for DIGESTS."""
    library = build(directory, load_target("host"), features).read_bytes()
    inputs = random_input(1)
    outputs = {name: np.asarray(value).tobytes() for name, value in expected(inputs).items()}
    return {
        "manifest.json": b"{}",
        PROGRAM: library,
        "golden/x.bin": inputs["x"].tobytes(),
        "golden/y.bin": outputs["y"],
        "golden/z.bin": outputs["z"],
        "golden/index.txt": INDEX,
        "LICENSES": b"Apache-2.0\n",
    }


def write(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(pack(raw_members(members)))
    return path
