import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deepseek_edge.runtime.programs import build_dse_run, dse_run_sources
from deepseek_edge.target import load_target
from deepseek_edge.toolchain import platform_flags, static_triple, zig
from tests.bundle_samples import RawMember, pack, raw_members
from tests.runtime.dse_run_bundles import (
    INDEX,
    PROGRAM,
    build_with_gcc,
    is_refused,
    program_members,
    run,
    write,
)


@pytest.fixture(scope="module")
def dse_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dse_run(load_target("host"), tmp_path_factory.mktemp("dse-run"))


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    return build_with_gcc(tmp_path_factory.mktemp("sanitized"), *flags)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return program_members(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]) -> Path:
    return write(tmp_path_factory.mktemp("bundle") / "linear.dse", members)


def test_info_lists_the_programs(dse_run: Path, bundle: Path, members: dict[str, bytes]) -> None:
    result = run(dse_run, "info", bundle)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "members 8",
        f"size_bytes {bundle.stat().st_size}",
        "signed no",
        f"program cpu-float32 {len(members[PROGRAM])} bytes",
    ]


def test_verify_says_what_it_did_not_check(dse_run: Path, bundle: Path) -> None:
    assert run(dse_run, "verify", bundle).out == "ok 8 members, not signed\n"


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_golden_outputs_agree(sanitized: Path, bundle: Path, threads: str) -> None:
    result = run(sanitized, "golden", bundle, "--program", "cpu-float32", "--threads", threads)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "ok cpu-float32 batch1 y max_abs 0 tolerance 1e-05",
        "ok cpu-float32 batch1 z max_abs 0 tolerance 0",
    ]


@pytest.mark.parametrize(
    ("change", "shown"), [(0.25, "0.25"), (np.nan, "inf"), (np.inf, "inf"), (1e-6, "ok")]
)
def test_an_output_beyond_its_tolerance_is_a_mismatch(
    dse_run: Path, tmp_path: Path, members: dict[str, bytes], change: float, shown: str
) -> None:
    y = np.frombuffer(members["golden/y.bin"], np.float32).copy()
    position = int(np.flatnonzero(y == 0)[0])
    y[position] += change
    changed = write(tmp_path / "changed.dse", members | {"golden/y.bin": y.tobytes()})
    result = run(dse_run, "golden", changed)
    if shown == "ok":
        assert result.status == 0
    else:
        assert result.status == 1
        assert result.out.startswith(f"MISMATCH cpu-float32 batch1 y max_abs {shown} ")


def test_bench_prints_one_json_object_with_ordered_percentiles(dse_run: Path, bundle: Path) -> None:
    result = run(dse_run, "bench", bundle, "--runs", "201", "--threads", "2")
    report = json.loads(result.out)
    assert (result.status, result.err) == (0, "")
    assert (report["program"], report["threads"], report["runs"]) == ("cpu-float32", 2, 201)
    assert report["cached"] is False
    ordered = [report[f"{name}_ms"] for name in ("min", "p50", "p90", "p99")]
    assert ordered == sorted(ordered)
    assert report["min_ms"] <= report["mean_ms"]
    assert report["first_ms"] > 0 < report["open_ms"]


def test_a_missing_cpu_feature_is_exit_3_and_named(dse_run: Path, tmp_path: Path) -> None:
    members = program_members(tmp_path, features="avx2 avxvnniint16")
    result = run(dse_run, "golden", write(tmp_path / "other.dse", members))
    assert result == run(dse_run, "bench", tmp_path / "other.dse")
    assert result.status == 3
    assert result.err == "error: this CPU lacks the feature 'avxvnniint16'\n"


def test_the_next_program_runs_where_the_preferred_one_cannot(
    sanitized: Path, dse_run: Path, members: dict[str, bytes], tmp_path: Path
) -> None:
    preferred = program_members(tmp_path, "avxvnniint16")[PROGRAM]
    both = {"manifest.json": b"{}", "programs/fast/model.so": preferred, **members}
    path = write(tmp_path / "both.dse", both)
    cache = {"XDG_RUNTIME_DIR": str(tmp_path)}
    for _ in range(2):  # the second time too: what stands in isn't kept as the first choice
        result = run(sanitized, "golden", path, variables=cache)
        assert result.status == 0
        assert result.out.startswith("ok cpu-float32 batch1 y max_abs 0 ")
        assert result.err.startswith("note: fast is passed over: ") and "avxvnniint16" in result.err
    named = run(dse_run, "golden", path, "--program", "fast")
    assert named.status == 3 and "avxvnniint16" in named.err
    assert run(dse_run, "golden", path, "--program", "cpu-float32").err == ""


def test_a_library_for_another_machine_is_exit_3(
    dse_run: Path, tmp_path: Path, members: dict[str, bytes]
) -> None:
    foreign = members | {PROGRAM: b"\x7fELF not really"}
    result = run(dse_run, "golden", write(tmp_path / "foreign.dse", foreign))
    assert result.status == 3
    assert result.err.startswith("error: the program can't be loaded here: ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("verify",),
        ("erase", "BUNDLE"),
        ("verify", "/nonexistent"),
        ("bench", "BUNDLE", "--runs"),
        ("bench", "BUNDLE", "--runs", "0"),
        ("bench", "BUNDLE", "--threads", "9x"),
        ("bench", "BUNDLE", "--forks", "1"),
        ("golden", "BUNDLE", "--program", "cpu-int8"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_line(
    dse_run: Path, bundle: Path, arguments: tuple[str, ...]
) -> None:
    words = [str(bundle) if word == "BUNDLE" else word for word in arguments]
    result = run(dse_run, *words)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)


def test_a_program_is_not_loaded_if_another_member_is_damaged(
    dse_run: Path, tmp_path: Path, members: dict[str, bytes]
) -> None:
    loaded = tmp_path / "loaded"
    (tmp_path / "mark.c").write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void mark(void) "
        f'{{ open("{loaded}", O_CREAT | O_WRONLY, 0600); }}\n'
    )
    command = ["gcc", "-shared", "-fPIC", "mark.c", "-o", "mark.so"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    marking = members | {PROGRAM: (tmp_path / "mark.so").read_bytes()}
    path = write(tmp_path / "marking.dse", marking)
    assert run(dse_run, "golden", path).status == 3
    assert loaded.is_file()

    loaded.unlink()
    path.write_bytes(path.read_bytes().replace(b"Apache-2.0\n", b"Apache-3.0\n"))
    assert is_refused(run(dse_run, "golden", path))
    assert is_refused(run(dse_run, "bench", path))
    assert not loaded.exists()


# Lies in golden/index.txt that DIGESTS confirms.
INDEXES = {
    "word missing": INDEX.replace(b" 0.0 golden/x", b" golden/x"),
    "word too many": INDEX.replace(b"x.bin\n", b"x.bin 1\n"),
    "two spaces": INDEX.replace(b" input", b"  input"),
    "neither input nor output": INDEX.replace(b"input", b"inpud"),
    "negative entry": INDEX.replace(b"32 0 input", b"32 -1 input"),
    "huge entry": INDEX.replace(b"32 0 input", b"32 99999999999999999999 input"),
    "entry that is not there": INDEX.replace(b"32 0 ", b"32 3 "),
    "tensor that is not there": INDEX.replace(b"input 0", b"input 1"),
    "negative tolerance": INDEX.replace(b"1e-05", b"-1e-05"),
    "infinite tolerance": INDEX.replace(b"1e-05", b"inf"),
    "overflowing tolerance": INDEX.replace(b"1e-05", b"1e999"),
    "no tolerance": INDEX.replace(b"1e-05", b"nan"),
    "file that is not there": INDEX.replace(b"golden/y", b"golden/w"),
    "file of another size": INDEX.replace(b"golden/y", b"golden/x"),
    "output missing": INDEX[: INDEX.rindex(b"cpu")],
    "input missing": INDEX[INDEX.index(b"\n") + 1 :],
    "no last line feed": INDEX[:-1],
    "zero byte": INDEX.replace(b"1e-05", b"1e-05\0"),
    "empty line": b"\n" + INDEX,
    "too many lines": INDEX * 400,
    "too large": INDEX * 3000,
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_hostile_index_is_refused(
    sanitized: Path, tmp_path: Path, members: dict[str, bytes], case: str
) -> None:
    path = write(tmp_path / "hostile.dse", members | {"golden/index.txt": INDEXES[case]})
    result = run(sanitized, "golden", path)
    assert is_refused(result), result


def test_a_bundle_without_golden_tensors_is_no_success(
    dse_run: Path, tmp_path: Path, members: dict[str, bytes]
) -> None:
    path = write(tmp_path / "none.dse", members | {"golden/index.txt": b""})
    result = run(dse_run, "golden", path)
    assert (result.status, result.out) == (1, "")


LENGTHS = {f"golden/n{n}.bin": bytes(i * 7 % 256 for i in range(n)) for n in range(200)}


@pytest.mark.parametrize("plain", [False, True], ids=["best", "plain C"])
def test_digests_of_every_length_equal_hashlib(tmp_path: Path, plain: bool) -> None:
    sources = [path for path in dse_run_sources() if not (plain and path.name == "sha256_x86.c")]
    if plain:
        best = tmp_path / "best.c"
        best.write_text(
            f'#include "{dse_run_sources()[0].parent}/sha256.h"\n'
            "sha256_blocks *sha256_best(void) { return sha256_blocks_c; }\n"
        )
        sources.append(best)
    program = build_with_gcc(tmp_path, "-O2", sources=tuple(sources))
    path = write(tmp_path / "lengths.dse", {"manifest.json": b"{}", **LENGTHS})
    assert run(program, "verify", path).out == "ok 202 members, not signed\n"


@pytest.mark.emulated
def test_digests_equal_hashlib_on_arm64(tmp_path: Path) -> None:
    # As dse-emulate is built, so that zig has that musl already.
    flags = ["-target", static_triple("aarch64"), "-mcpu=baseline", "-static", "-s", "-O2", "-g0"]
    sources = map(str, dse_run_sources())
    zig(["cc", *flags, "-D_GNU_SOURCE", *sources, "-o", "dse-run"], cwd=tmp_path)
    path = write(tmp_path / "lengths.dse", {"manifest.json": b"{}", **LENGTHS})
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    assert qemu is not None
    result = run(Path(qemu), "-cpu", "cortex-a72", tmp_path / "dse-run", "verify", path)
    assert result.out == "ok 202 members, not signed\n"


@pytest.mark.parametrize("id", ["host", "arm64", "android-arm64"])
def test_dse_run_is_small_and_needs_libc_only(tmp_path: Path, id: str) -> None:
    program = build_dse_run(load_target(id), tmp_path)
    dynamic = subprocess.run(
        ["readelf", "-dlW", str(program)], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc.so.6", "libdl.so.2", "libpthread.so.0", "libc.so", "libdl.so"}
    assert program.stat().st_size <= 64 * 1024
    assert ("/system/bin/linker64" in dynamic) == (id == "android-arm64")
    assert {line.split()[-1] for line in dynamic.splitlines() if " LOAD " in line} == {"0x4000"}


def test_the_signature_is_outside_digests(
    dse_run: Path, tmp_path: Path, members: dict[str, bytes]
) -> None:
    signed = [*raw_members(members), RawMember(b"DIGESTS.sig", bytes(64))]
    (tmp_path / "signed.dse").write_bytes(pack(signed))
    result = run(dse_run, "verify", tmp_path / "signed.dse")
    assert result.out == "ok 9 members, signature not checked\n"


def test_platform_flags_keep_to_the_baseline() -> None:
    assert "-mcpu=baseline" in platform_flags(load_target("raspberry-pi-5"))
