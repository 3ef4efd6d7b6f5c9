import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepseek_edge.cli.target import app
from deepseek_edge.errors import UnknownTargetError, UnsupportedError, UsageError
from deepseek_edge.target import list_targets, load_target


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def run_json(*arguments: str) -> dict[str, Any]:
    value = json.loads(run(*arguments, "--format", "json"))
    assert isinstance(value, dict)
    return value


def test_list_names_every_target_on_a_line() -> None:
    assert [line.split()[0] for line in run("list").splitlines()] == list(list_targets())


def test_list_as_json_has_stable_keys() -> None:
    listed = run_json("list")
    assert listed["schema"] == 1
    assert [row["id"] for row in listed["targets"]] == list(list_targets())
    assert set(listed["targets"][0]) == {
        "id", "name", "extends", "arch", "os", "mcpu", "features", "precisions",
    }  # fmt: skip


def test_list_leaves_out_a_host_that_can_not_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="darwin"):
        load_target("host")
    result = CliRunner().invoke(app, ["list", "--format", "json"])
    assert "host" not in {row["id"] for row in json.loads(result.stdout)["targets"]}
    assert "host: left out" in result.stderr


def test_show_says_every_value_and_its_source() -> None:
    shown = run("show", "raspberry-pi-5")
    assert "cortex-a76 [1]" in shown
    assert "17,000,000,000 [1]" in shown
    assert "[1] Raspberry Pi documentation, Processors, BCM2712" in shown
    assert "8 [unverified]" in shown


def test_show_as_json_has_all_fields_with_null_for_the_unknown() -> None:
    shown = run_json("show", "arm64")
    assert shown["schema"] == 1
    assert shown["digest"] == load_target("arm64").digest
    assert shown["memory_bytes"] is None
    assert shown["sources"]["cores"] == "unverified"


def test_show_of_an_unknown_target_fails_with_usage() -> None:
    with pytest.raises(UnknownTargetError) as caught:
        run("show", "raspbery-pi-4")
    assert caught.value.exit_code == 2


def test_check_lists_the_unverified_values_of_all_targets() -> None:
    checked = run_json("check")["targets"]
    assert [row["id"] for row in checked] == list(list_targets())
    by_id = {row["id"]: row["unverified"] for row in checked}
    assert by_id["host"] == []
    assert by_id["raspberry-pi-5"] == ["peak_fma_per_cycle"]
    assert "raspberry-pi-5: unverified: peak_fma_per_cycle" in run("check").splitlines()


def test_check_refuses_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "Bad"\nextends = "raspberry-pi-4"\nfeatures = ["dotprod"]\n')
    with pytest.raises(UsageError, match="cortex-a72 has no dotprod"):
        run("check", str(path))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from deepseek_edge.cli.target import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'tvm', 'numpy'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
