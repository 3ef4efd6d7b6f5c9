"""The C compiler and linker for every target: zig, as the Python package ``ziglang`` brings it.

One clang and lld for all targets and any version of glibc, with no sysroot, no Docker image and
no Android NDK.
"""

import importlib.util
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepseek_edge.errors import DeepSeekEdgeError, MissingToolError, UnsupportedError
from deepseek_edge.target import Target

# The oldest C library of a target that names none: Debian 10, RHEL 8, JetPack 5 have 2.27-2.31.
_OLDEST_GLIBC = "2.28"
_COMPILE_TIMEOUT_S = 600


def runtime_sources() -> Path:
    """The folder of the C headers and sources that ship in this package."""
    return Path(__file__).parent / "runtime"


def zig_triple(target: Target) -> str:
    """Name the platform of a target as zig does, e.g. "aarch64-linux-gnu.2.36".

    Raises:
        UnsupportedError: no C library is known for this operating system.
    """
    if target.os == "android":
        return f"{target.arch}-linux-android"
    if target.os == "linux":
        return f"{target.arch}-linux-gnu.{target.glibc or _OLDEST_GLIBC}"
    raise UnsupportedError(
        f"can't link for the operating system {target.os!r} of target {target.id}",
        hint='os is "linux" or "android"',
    )


def static_triple(arch: str) -> str:
    """Name the platform of programs that bring their own C library, and run on any Linux."""
    return f"{arch}-linux-musl"


def platform_flags(target: Target) -> list[str]:
    """Flags with which C code runs on every CPU of a target's architecture.

    Not more, since it runs before the CPU is checked.
    """
    if target.os == "android":
        # For the android triple clang 22 calls atomics out of line, whatever -mno-outline-atomics
        # says, and only the NDK has them. With no headers and no libraries, musl's is the same.
        return ["-target", static_triple(target.arch), "-mcpu=baseline", "-DDSE_ANDROID"]
    return ["-target", zig_triple(target), "-mcpu=baseline"]


def android_libraries(work_dir: Path, target: Target, names: Sequence[str]) -> list[str]:
    """Make stand-ins for Android's libraries in a folder, and the flags to link with them.

    Args:
        work_dir: where the linker will run.
        target: an Android target.
        names: of "libc", "libm" and "libdl".

    Raises:
        As :func:`zig`.
    """
    flags = [*platform_flags(target), "-fno-builtin", "-w", "-O1", "-g0", "-shared", "-nostdlib"]
    for name in names:
        source = runtime_sources() / "android" / f"{name}_stub.c"
        output = ["-o", f"{name}_stub.so", str(source), f"-Wl,-soname,{name}.so"]
        zig(["cc", *flags, *output], cwd=work_dir)
    return ["-nostdlib", *(f"./{name}_stub.so" for name in names)]


def zig(arguments: Sequence[str], cwd: Path) -> None:
    """Run ``zig ARGUMENTS`` in the folder ``cwd``.

    Raises:
        MissingToolError: the package ``ziglang`` is not installed.
        DeepSeekEdgeError: it failed; the message is the first error that it printed.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise MissingToolError("the C compiler zig is not installed", hint="pip install ziglang")
    command = [sys.executable, "-m", "ziglang", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(_zig_cache())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeepSeekEdgeError(f"zig took more than {_COMPILE_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise DeepSeekEdgeError(f"zig {arguments[0]} failed: {_first_error(done)}")


def _first_error(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    return (errors or lines or [f"exit status {done.returncode}"])[0]


def cache_directory(name: str) -> Path:
    """A folder of this user for what can be built again: in ~/.cache, or else temporary.

    Raises:
        DeepSeekEdgeError: neither the home directory nor the temporary one can be used safely.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return home
    except OSError:
        return _private_temporary_directory(name)


def _zig_cache() -> Path:
    # What zig built of the C libraries, for one: that takes it 6 to 40 s the first time.
    chosen = os.environ.get("ZIG_GLOBAL_CACHE_DIR")
    return Path(chosen) if chosen else cache_directory("zig")


def _private_temporary_directory(name: str) -> Path:
    # What is built there gets run: nobody else may be able to write it.
    path = Path(tempfile.gettempdir()) / f"deepseek-edge-{name}-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise DeepSeekEdgeError(
            f"{path} is not a private folder of yours",
            hint="remove it, or set XDG_CACHE_HOME to a folder that only you can write",
        )
    return path
