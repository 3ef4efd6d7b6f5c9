"""The parts of TensorRT's Python module that are called, as its versions have them, recorded."""

from types import SimpleNamespace
from typing import Any


class Parsed:
    """An error of the ONNX parser; before TensorRT 10 it has no name and operator."""

    def __init__(self, code: str, desc: str, node: int, **named: str) -> None:
        self.code = lambda: code
        self.desc = lambda: desc
        self.node = lambda: node
        for key, value in named.items():
            setattr(self, key, lambda value=value: value)


class FakeTensorRT:
    """A module object.

    Args:
        version: "8.5.2" (flags of the builder), "10.3.0" (strongly typed), or "11.0" (nothing
            else, and no names for it).
        errors: of the parser.
        log: what the logger is told while building: (severity, message).
        plan: what is built; None fails.
        is_cache_taken: what setting a timing cache returns.
    """

    def __init__(
        self,
        version: str = "10.3.0",
        *,
        name: str = "tensorrt",
        errors: tuple[Any, ...] = (),
        log: tuple[tuple[int, str], ...] = (),
        plan: bytes | None = b"engine",
        is_cache_taken: bool = True,
    ) -> None:
        self.__name__, self.__version__ = name, version
        self.calls: list[Any] = []
        major = int(version.partition(".")[0])
        flags = {8: {"EXPLICIT_BATCH": 0}, 10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags.get(major, {}))
        builder = {"TF32": 7} if major > 10 else {"TF32": 7, "FP16": 0, "INT8": 1}
        self.BuilderFlag = SimpleNamespace(**builder)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
        self.LayerInformationFormat = SimpleNamespace(JSON="json")
        self.ComputeCapability = SimpleNamespace(SM75=75, SM86=86, SM89=89)
        self.Logger = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})
        self._errors, self._log, self._plan = errors, log, plan
        self._is_cache_taken = is_cache_taken

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def build(network: Any, config: Any) -> Any:
            for severity, message in self._log:
                logger.log(severity, message)
            return self._plan

        def create_network(flags: int) -> str:
            self.calls.append(("network", flags))
            return "network"

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: FakeConfig(self, self._is_cache_taken),
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(
            parse=lambda data: not self._errors,
            num_errors=len(self._errors),
            get_error=lambda index: self._errors[index],
        )


class FakeConfig:
    def __init__(self, trt: FakeTensorRT, is_cache_taken: bool) -> None:
        object.__setattr__(self, "_trt", trt)
        object.__setattr__(self, "_is_cache_taken", is_cache_taken)

    def __setattr__(self, name: str, value: Any) -> None:
        self._trt.calls.append((name, value))

    def __getattr__(self, name: str) -> Any:
        def record(*arguments: Any) -> Any:
            self._trt.calls.append((name, *arguments))
            if name == "create_timing_cache":
                return SimpleNamespace(data=arguments[0])
            if name == "get_timing_cache":
                return SimpleNamespace(serialize=lambda: b"measured")
            return self._is_cache_taken

        return record
