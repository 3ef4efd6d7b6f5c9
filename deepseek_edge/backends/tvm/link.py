"""Kernels + step table + weights + runtime -> one shared library."""

from pathlib import Path

from deepseek_edge.digest import digest_file
from deepseek_edge.target import Target
from deepseek_edge.toolchain import runtime_sources, static_triple, zig, zig_triple

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


def link_program(work_dir: Path, target: Target) -> Path:
    """Link ``program.c``, ``kernels.o`` and ``constants.bin`` of a folder to ``model.so``.

    The same contents and target give the same bytes, in whichever folder.

    Raises:
        DeepSeekEdgeError: the C file does not compile, or a kernel needs a function that
            neither the runtime nor libc nor libm has.
        MissingToolError: zig is not installed.
    """
    sources = runtime_sources()
    libraries = (
        _android_libraries(work_dir, target) if target.os == "android" else ["-lm", "-lpthread"]
    )
    zig(
        [
            "cc",
            *_platform_flags(target),
            *_C_FLAGS,
            # zig caches by what is included, and doesn't see what .incbin reads.
            f"-DDSE_CONSTANTS_SHA256={digest_file(work_dir / 'constants.bin')}",
            f"-I{sources}",
            "program.c",
            *map(str, runtime_files()),
            "kernels.o",
            *_LINK_FLAGS,
            f"-Wl,--version-script={sources / 'exports.map'}",
            "-o",
            "model.so",
            *libraries,
        ],
        cwd=work_dir,
    )
    return work_dir / "model.so"


def runtime_files() -> tuple[Path, ...]:
    """The C files of the runtime, the same for every target."""
    return tuple(sorted(runtime_sources().glob("dse_*.c")))


def _platform_flags(target: Target) -> list[str]:
    # The C code runs before the CPU is checked: it keeps to what every core of the kind has.
    if target.os == "android":
        # For the android triple clang 22 calls atomics out of line, whatever -mno-outline-atomics
        # says, and only the NDK has them. With no headers and no libraries, musl's is the same.
        return ["-target", static_triple(target.arch), "-mcpu=baseline", "-DDSE_ANDROID"]
    return ["-target", zig_triple(target), "-mcpu=baseline"]


def _android_libraries(work_dir: Path, target: Target) -> list[str]:
    names = ("libc", "libm")
    for name in names:
        source = runtime_sources() / "android" / f"{name}_stub.c"
        arguments = [*_platform_flags(target), "-fno-builtin", "-w", "-O1", "-shared", "-nostdlib"]
        output = ["-o", f"{name}_stub.so", str(source), f"-Wl,-soname,{name}.so"]
        zig(["cc", *arguments, *output], cwd=work_dir)
    return ["-nostdlib", *(f"./{name}_stub.so" for name in names)]
