"""Kernels + step table + weights + runtime -> one shared library."""

from pathlib import Path

from deepseek_edge.digest import digest_file
from deepseek_edge.target import Target
from deepseek_edge.toolchain import android_libraries, platform_flags, runtime_sources, zig

# Size matters in the runtime, which is small; the kernels come compiled.
_C_FLAGS = (
    "-std=gnu11",
    "-O2",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    "-fno-builtin-bcmp",  # Android has none
    "-DDSE_BUILDING",
    "-Wall",
    "-Wextra",
    "-Werror",
)
_LINK_FLAGS = (
    "-shared",
    "-s",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    "-Wl,--no-undefined",
    "-Wl,--as-needed",
    "-Wl,-z,now",
    # Android 15 has pages of 16 KB, and so have some kernels for the Raspberry Pi 5.
    "-Wl,-z,max-page-size=16384",
)


def link_program(
    work_dir: Path,
    target: Target,
    *,
    kernels: Path = Path("kernels.o"),
    sources: tuple[Path, ...] = (),
    libraries: tuple[str, ...] = (),
) -> Path:
    """Link ``program.c``, its kernels and ``constants.bin`` of a folder to ``model.so``.

    Args:
        work_dir: the folder.
        target: what to link for.
        kernels: relative to the folder: an object file, or what program.c itself takes in.
        sources: C files besides the runtime's own.
        libraries: flags of the libraries that those need.

    The same contents and target give the same bytes, in whichever folder.

    Raises:
        DeepSeekEdgeError: the C file does not compile, or a kernel needs a function that
            neither the runtime nor libc nor libm has.
        MissingToolError: zig is not installed.
    """
    headers, is_object = runtime_sources(), kernels.suffix == ".o"
    system = ["-lm", "-lpthread", *libraries]
    if target.os == "android":
        system = android_libraries(work_dir, target, ("libc", "libm"))
    zig(
        [
            "cc",
            *platform_flags(target),
            *_C_FLAGS,
            # zig caches by what is included, and doesn't see what .incbin reads.
            f"-DDSE_CONSTANTS_SHA256={digest_file(work_dir / 'constants.bin')}",
            *([] if is_object else [f"-DDSE_KERNELS_SHA256={digest_file(work_dir / kernels)}"]),
            f"-I{headers}",
            "program.c",
            *map(str, (*runtime_files(), *sources)),
            *([str(kernels)] if is_object else []),
            *_LINK_FLAGS,
            f"-Wl,--version-script={headers / 'exports.map'}",
            "-o",
            "model.so",
            *system,
        ],
        cwd=work_dir,
    )
    return work_dir / "model.so"


def runtime_files() -> tuple[Path, ...]:
    """The C files of the runtime, the same for every target."""
    return tuple(sorted(runtime_sources().glob("dse_*.c")))
