import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepseek_edge.bundle import open_bundle, write_bundle
from deepseek_edge.cli.bundle import app
from deepseek_edge.errors import BundleError, OutputError
from tests.bundle_samples import RawMember, make_manifest, pack, raw_members


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny.dse", *make_manifest())
    return tmp_path / "tiny.dse"


def stdout(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_verify_says_that_all_is_intact_and_unsigned(bundle: Path) -> None:
    text = stdout("verify", bundle)
    assert "all 7 members are intact" in text
    assert "signature: none" in text


def test_signature_is_called_not_checked(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        members = raw_members({name: opened.read(name) for name in opened.names})
    bundle.write_bytes(pack([*members, RawMember(b"DIGESTS.sig", bytes(64))]))
    assert "present, not checked" in stdout("verify", bundle)
    assert json.loads(stdout("verify", bundle, "--format", "json"))["signature"] == "not checked"


def test_info_names_model_target_program_and_tensors(bundle: Path) -> None:
    text = stdout("info", bundle)
    for word in ("tiny", "tiny-board", "cpu-float32", "verified on qemu", "x: float32[1, 2]"):
        assert word in text


def test_info_as_json_holds_the_manifest(bundle: Path) -> None:
    result = json.loads(stdout("info", bundle, "--format", "json"))
    with open_bundle(bundle) as opened:
        assert result["manifest"] == json.loads(opened.read("manifest.json"))
    assert list(result) == [
        "schema",
        "bundle",
        "size_bytes",
        "digests_sha256",
        "signature",
        "members",
        "manifest",
    ]


def test_program_that_was_never_run_is_shown_as_not_run(tmp_path: Path) -> None:
    manifest, contents = make_manifest(verified=None)
    write_bundle(tmp_path / "a.dse", manifest, contents)
    assert "NOT RUN" in stdout("info", tmp_path / "a.dse")


def test_escape_sequences_of_a_bundle_do_not_reach_the_terminal(tmp_path: Path) -> None:
    manifest, contents = make_manifest(name="\x1b[2Jtiny")
    write_bundle(tmp_path / "a.dse", manifest, contents)
    text = stdout("info", tmp_path / "a.dse")
    assert "\x1b" not in text and "\\x1b[2Jtiny" in text


def test_extract_writes_into_a_folder_named_like_the_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    result = json.loads(stdout("extract", "tiny.dse", "--format", "json"))
    assert result["directory"] == "tiny"
    assert (bundle.parent / "tiny" / "LICENSES").read_bytes() == b"Apache-2.0\n"


def test_extract_into_a_full_folder_is_an_output_error(bundle: Path) -> None:
    with pytest.raises(OutputError, match="not empty"):
        stdout("extract", bundle, "-o", bundle.parent)


@pytest.mark.parametrize("verb", ["info", "verify", "extract"])
def test_damaged_bundle_is_refused_without_output(bundle: Path, verb: str) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-1])
    with pytest.raises(BundleError):
        stdout(verb, bundle)
    assert [p.name for p in bundle.parent.iterdir()] == ["tiny.dse"]
