import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek_edge.runtime.programs import build_dse_run
from deepseek_edge.target import load_target
from tests.runtime.dse_run_bundles import is_refused, program_members, run, write


@pytest.fixture(scope="module")
def dse_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dse_run(load_target("host"), tmp_path_factory.mktemp("dse-run"))


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was not changed within the last two seconds."""
    folder = tmp_path_factory.mktemp("bundle")
    path = write(folder / "linear.dse", program_members(folder))
    time.sleep(2.1)
    return path


def is_cached(dse_run: Path, bundle: Path, folder: Path, *arguments: str) -> bool:
    variables = {"XDG_RUNTIME_DIR": str(folder)}
    result = run(dse_run, "bench", bundle, "--runs", "1", *arguments, variables=variables)
    assert (result.status, result.err) == (0, "")
    return bool(json.loads(result.out)["cached"])


def test_the_second_run_takes_what_the_first_verified(
    dse_run: Path, settled: Path, tmp_path: Path
) -> None:
    assert not is_cached(dse_run, settled, tmp_path)
    assert is_cached(dse_run, settled, tmp_path)
    folder = tmp_path / "deepseek-edge"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o400}
    golden = run(dse_run, "golden", settled, variables={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert golden.out.count("ok cpu-float32") == 2


def test_another_program_id_is_another_record(dse_run: Path, settled: Path, tmp_path: Path) -> None:
    assert not is_cached(dse_run, settled, tmp_path)
    assert not is_cached(dse_run, settled, tmp_path, "--program", "cpu-float32")
    assert is_cached(dse_run, settled, tmp_path, "--program", "cpu-float32")


def test_a_bundle_changed_a_moment_ago_is_not_cached(
    dse_run: Path, settled: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh.dse"
    fresh.write_bytes(settled.read_bytes())
    assert not is_cached(dse_run, fresh, tmp_path)
    assert not is_cached(dse_run, fresh, tmp_path)


def test_a_bundle_changed_in_place_is_verified_again(
    dse_run: Path, settled: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "linear.dse"
    bundle.write_bytes(settled.read_bytes())
    time.sleep(2.1)
    is_cached(dse_run, bundle, tmp_path)
    assert is_cached(dse_run, bundle, tmp_path)
    status = bundle.stat()
    with bundle.open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    # Size and mtime can be made to look as before; ctime can't.
    os.utime(bundle, ns=(status.st_atime_ns, status.st_mtime_ns))
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert is_refused(run(dse_run, "bench", bundle, variables=variables))


def change_library(folder: Path) -> None:
    library = next(folder.glob("*.so"))
    library.chmod(0o600)
    with library.open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    library.chmod(0o400)


def change_record(folder: Path) -> None:
    record = next(path for path in folder.iterdir() if path.suffix != ".so")
    text = record.read_bytes()
    record.chmod(0o600)
    record.write_bytes(text[:-1])
    record.chmod(0o400)


def replace_with_link(folder: Path) -> None:
    library = next(folder.glob("*.so"))
    elsewhere = folder.parent / "elsewhere.so"
    library.rename(elsewhere)
    library.symlink_to(elsewhere)


def replace_folder_with_link(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, -1)


CHANGES: dict[str, Callable[[Path], None]] = {
    "library changed": change_library,
    "record cut off": change_record,
    "library is a link": replace_with_link,
    "folder is a link": replace_folder_with_link,
    "folder open to others": lambda folder: folder.chmod(0o755),
    "library writable by the group": lambda folder: next(folder.glob("*.so")).chmod(0o420),
    "library of someone else": lambda folder: give_away(next(folder.glob("*.so"))),
    "folder of someone else": give_away,
    "library gone": lambda folder: next(folder.glob("*.so")).unlink(),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_cache_that_was_touched_is_ignored(
    dse_run: Path, settled: Path, tmp_path: Path, case: str
) -> None:
    is_cached(dse_run, settled, tmp_path)
    assert is_cached(dse_run, settled, tmp_path)
    CHANGES[case](tmp_path / "deepseek-edge")
    assert not is_cached(dse_run, settled, tmp_path)


def test_a_full_or_missing_folder_costs_nothing_but_time(
    dse_run: Path, settled: Path, tmp_path: Path
) -> None:
    (tmp_path / "deepseek-edge").write_text("a file where the folder should be")
    assert not is_cached(dse_run, settled, tmp_path)
    assert not is_cached(dse_run, settled, tmp_path / "missing")
    assert not is_cached(dse_run, settled, Path("relative"))
