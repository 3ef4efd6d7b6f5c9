from types import SimpleNamespace

import pytest

from deepseek_edge.engine_build import (
    EngineOptions,
    build_engine,
    is_rtx,
    is_strongly_typed,
    layer_information,
    pack_timing_cache,
    unpack_timing_cache,
)
from deepseek_edge.errors import DeepSeekEdgeError, ModelError, UnsupportedError
from tests.backends.tensorrt.fake_trt import FakeTensorRT, Parsed


def options(precision: str = "int8", **others: object) -> EngineOptions:
    return EngineOptions(precision, 1 << 20, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "precision", "network", "flags"),
    [
        ("8.5.2", "float32", 1, []),
        ("8.5.2", "float16", 1, [0]),
        ("8.5.2", "int8", 1, [0, 1]),
        ("10.3.0", "float16", 2, []),
        ("10.3.0", "int8", 2, []),
        ("11.0", "int8", 0, []),
    ],
)
def test_each_version_is_asked_in_its_own_way(
    version: str, precision: str, network: int, flags: list[int]
) -> None:
    trt = FakeTensorRT(version)
    assert build_engine(trt, b"graph", options(precision)).engine == b"engine"
    assert ("network", network) in trt.calls
    assert [call[1] for call in trt.calls if call[0] == "set_flag"] == flags
    assert ("set_memory_pool_limit", "workspace", 1 << 20) in trt.calls


def test_plugins_are_loaded_where_there_are_some() -> None:
    trt = FakeTensorRT("8.5.2")
    loaded: list[str] = []
    trt.init_libnvinfer_plugins = lambda logger, space: loaded.append(space)  # type: ignore[attr-defined]
    build_engine(trt, b"", options())
    assert loaded == [""]


def test_float32_means_float32() -> None:
    trt = FakeTensorRT()
    build_engine(trt, b"", options("float32"))
    assert ("clear_flag", trt.BuilderFlag.TF32) in trt.calls


def test_only_older_versions_have_flags_for_precision() -> None:
    typed = [is_strongly_typed(FakeTensorRT(v)) for v in ("8.5.2", "10.3.0", "11.0")]
    assert typed == [False, True, True]


def test_rtx_is_told_by_its_name() -> None:
    assert is_rtx(FakeTensorRT(name="tensorrt_rtx"))
    assert is_rtx(FakeTensorRT(name="tensorrt_rtx_bindings"))
    assert not is_rtx(FakeTensorRT())


def test_rtx_builds_for_the_gpu_that_is_named() -> None:
    trt = FakeTensorRT(name="tensorrt_rtx")
    build_engine(trt, b"", options(sm="8.6"))
    assert ("num_compute_capabilities", 1) in trt.calls
    assert ("set_compute_capability", 86, 0) in trt.calls


@pytest.mark.parametrize(("name", "sm"), [("tensorrt_rtx", "8.7"), ("tensorrt", "8.6")])
def test_a_gpu_that_it_cannot_build_for_is_refused_with_what_works(name: str, sm: str) -> None:
    with pytest.raises(UnsupportedError, match=sm) as refusal:
        build_engine(FakeTensorRT(name=name), b"", options(sm=sm))
    assert ("SM86" in str(refusal.value.hint)) == (name == "tensorrt_rtx")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="w4a16"):
        build_engine(FakeTensorRT(), b"", options("w4a16"))


def test_layers_are_described_only_if_asked() -> None:
    trt = FakeTensorRT()
    build_engine(trt, b"", options())
    assert ("profiling_verbosity", "detailed") not in trt.calls
    build_engine(trt, b"", options(is_detailed=True))
    assert ("profiling_verbosity", "detailed") in trt.calls


def test_an_operator_that_it_lacks_is_named_with_its_node() -> None:
    error = Parsed(
        "ErrorCode.UNSUPPORTED_NODE",
        "No importer\n registered",
        3,
        node_name="/a",
        node_operator="Foo",
    )
    with pytest.raises(UnsupportedError) as refusal:
        build_engine(FakeTensorRT(errors=(error,)), b"", options())
    assert str(refusal.value) == "TensorRT refuses Foo (node '/a'): No importer registered"
    assert "CUDA program" in str(refusal.value.hint)


def test_version_8_names_a_node_by_its_place() -> None:
    error = Parsed("ErrorCode.UNSUPPORTED_NODE", "no", 3)
    with pytest.raises(UnsupportedError, match="node 3 of the graph"):
        build_engine(FakeTensorRT("8.5.2", errors=(error,)), b"", options())


def test_what_is_no_graph_is_a_fault_of_the_model() -> None:
    error = Parsed("ErrorCode.MODEL_DESERIALIZE_FAILED", "bad", -1)
    with pytest.raises(ModelError, match="can't read the graph"):
        build_engine(FakeTensorRT(errors=(error,)), b"", options())


@pytest.mark.parametrize(
    ("message", "kind", "hint"),
    [
        ("Requested amount of GPU memory: out of memory", DeepSeekEdgeError, "swap"),
        ("Could not find any implementation for node a", UnsupportedError, "workspace"),
        ("something else", DeepSeekEdgeError, None),
    ],
)
def test_a_failed_build_says_why(
    message: str, kind: type[DeepSeekEdgeError], hint: str | None
) -> None:
    trt = FakeTensorRT(plan=None, log=((3, "chatter"), (1, message), (1, "it failed")))
    with pytest.raises(kind, match=message) as failure:
        build_engine(trt, b"", options())
    assert type(failure.value) is kind
    assert hint is None or hint in str(failure.value.hint)


def test_warnings_are_kept() -> None:
    trt = FakeTensorRT(log=tuple((2, f"warning {i}") for i in range(30)))
    warnings = build_engine(trt, b"", options()).warnings
    assert len(warnings) == 20
    assert warnings[0] == "warning 0"


def test_what_it_says_of_weights_is_kept() -> None:
    trt = FakeTensorRT(log=((3, "Total Weights Memory: 6070020 bytes"), (3, "Total time: 3")))
    assert build_engine(trt, b"", options()).weights_bytes == 6070020
    assert build_engine(FakeTensorRT(), b"", options()).weights_bytes is None


def test_a_timing_cache_is_given_and_handed_back() -> None:
    trt = FakeTensorRT()
    built = build_engine(trt, b"", options(timing_cache=b"before"))
    assert ("create_timing_cache", b"before") in trt.calls
    assert built.timing_cache == b"measured"
    assert build_engine(trt, b"", options()).timing_cache is None


def test_a_timing_cache_that_it_does_not_take_is_replaced_by_an_empty_one() -> None:
    trt = FakeTensorRT(is_cache_taken=False)
    build_engine(trt, b"", options(timing_cache=b"other"))
    given = [call[1] for call in trt.calls if call[0] == "create_timing_cache"]
    assert given == [b"other", b""]


def test_rtx_keeps_no_timing_cache() -> None:
    trt = FakeTensorRT(name="tensorrt_rtx")
    assert build_engine(trt, b"", options(timing_cache=b"")).timing_cache is None
    assert not any("timing" in str(call[0]) for call in trt.calls)


def test_a_packed_timing_cache_is_read_back() -> None:
    data = bytes(range(256))
    assert unpack_timing_cache(pack_timing_cache(data, "Orin 10.3"), "Orin 10.3") == data


def test_a_damaged_or_foreign_timing_cache_is_refused() -> None:
    packed = pack_timing_cache(b"measured times", "Orin 10.3")
    with pytest.raises(ModelError, match="not of Orin 10"):
        unpack_timing_cache(packed, "Orin 10.4")
    for place in range(len(packed)):
        damaged = packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]
        with pytest.raises(ModelError, match="timing cache"):
            unpack_timing_cache(damaged, "Orin 10.3")
    for length in range(len(packed)):
        with pytest.raises(ModelError, match="timing cache"):
            unpack_timing_cache(packed[:length], "Orin 10.3")


def test_layer_information_is_the_inspectors_json() -> None:
    inspector = SimpleNamespace(get_engine_information=lambda form: f"in {form}")
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    assert layer_information(FakeTensorRT(), engine) == "in json"
    with pytest.raises(UnsupportedError):
        layer_information(FakeTensorRT(), SimpleNamespace(create_engine_inspector=lambda: None))
