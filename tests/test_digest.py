from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_edge.digest import canonical_json, digest_bytes, digest_file, digest_json

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_digest_of_abc_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_bytes(b"abc") == digest_file(tmp_path / "abc") == ABC


def test_file_larger_than_a_chunk_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192 + b"tail"
    (tmp_path / "large").write_bytes(data)
    assert digest_file(tmp_path / "large") == digest_bytes(data)


def test_canonical_json_has_sorted_keys_no_spaces_and_only_ascii() -> None:
    assert canonical_json({"b": (1, 0.1, None), "a": "é"}) == b'{"a":"\\u00e9","b":[1,0.1,null]}'


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict[str, float]) -> None:
    assert digest_json(value) == digest_json(dict(reversed(list(value.items()))))


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_that_json_cannot_say_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([number])
