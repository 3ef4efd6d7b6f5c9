"""Builds the C programs around model.so: dse-run for every target, and dse-emulate."""

import tempfile
from pathlib import Path

from deepseek_edge.digest import digest_bytes
from deepseek_edge.target import Target
from deepseek_edge.toolchain import (
    android_libraries,
    cache_directory,
    platform_flags,
    runtime_sources,
    static_triple,
    zig,
)

_C_FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g0", "-Wall", "-Wextra", "-Werror")
_LINK_FLAGS = (
    "-s",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    "-Wl,--as-needed",
    "-Wl,-z,now",
    "-Wl,-z,max-page-size=16384",
)


def dse_run_sources() -> tuple[Path, ...]:
    """The C files of dse-run, the same for every target."""
    sources = runtime_sources()
    cpu = (sources / "dse_cpu_arm64.c", sources / "dse_cpu_x86.c")
    return (*sorted((sources / "dse_run").glob("*.c")), *cpu)


def build_dse_run(target: Target, directory: Path) -> Path:
    """Build dse-run, which verifies, checks and times a bundle where there is no Python.

    Args:
        target: where it will run; it needs that C library and nothing else.
        directory: an existing folder; the program is ``directory / "dse-run"``.

    Raises:
        MissingToolError: zig is not installed.
        DeepSeekEdgeError: it does not compile.
    """
    flags = [*platform_flags(target), *_C_FLAGS, "-fPIE", "-fno-builtin-bcmp", *_LINK_FLAGS]
    libraries = ["-pie", "-ldl"]
    with tempfile.TemporaryDirectory(dir=directory) as name:
        folder = Path(name)
        if target.os == "android":
            libraries = android_libraries(folder, target, ("libc", "libdl"))
            libraries += ["-pie", "-Wl,--dynamic-linker=/system/bin/linker64"]
        zig(
            ["cc", *flags, *map(str, dse_run_sources()), "-o", "dse-run", *libraries],
            cwd=folder,
        )
        (folder / "dse-run").replace(directory / "dse-run")
    return directory / "dse-run"


def build_dse_emulate() -> Path:
    """Build the loader of AArch64 programs for user-mode emulation, once for this user.

    Raises:
        As :func:`build_dse_run`.
    """
    folder = runtime_sources() / "emulate"
    sources = sorted(folder.glob("*.c"))
    headers = (folder / "elf.h", runtime_sources() / "deepseek_edge.h")
    flags = ["-target", static_triple("aarch64"), "-mcpu=baseline", "-static", "-s", *_C_FLAGS]
    texts = [path.read_bytes() for path in (*sources, *headers)]
    key = digest_bytes(b"".join(texts) + " ".join(flags).encode())
    cache = cache_directory("deepseek-edge")
    program = cache / f"dse-emulate-{key[:16]}"
    if program.is_file():
        return program
    # Under a name of its own first: another process may be building it too.
    with tempfile.TemporaryDirectory(dir=cache) as name:
        zig(["cc", *flags, *map(str, sources), "-o", "dse-emulate"], cwd=Path(name))
        (Path(name) / "dse-emulate").replace(program)
    return program
