"""Stands in a board's place of the module ``tensorrt``: engines that double three floats.

What the builder is given is what the engine says, so that a test sees it. A graph "wrong" gives an
engine that triples.
"""

import ctypes
from types import SimpleNamespace as Space
from typing import Any

__version__ = "10.3.0.26"


class ILogger:
    pass


Logger = Space(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
NetworkDefinitionCreationFlag = Space(STRONGLY_TYPED=1)
BuilderFlag = Space(TF32=0)
MemoryPoolType = Space(WORKSPACE=0)
ProfilingVerbosity = Space(DETAILED=2)
LayerInformationFormat = Space(JSON=1)
TensorIOMode = Space(INPUT=1, OUTPUT=2)


class Builder:
    def __init__(self, logger: Any) -> None:
        self.graph = b""

    def create_network(self, flags: int) -> "Builder":
        return self

    def create_builder_config(self) -> Any:
        nothing: dict[str, Any] = {
            name: lambda *arguments: True
            for name in ("set_memory_pool_limit", "clear_flag", "set_timing_cache")
        }
        cache = Space(serialize=lambda: b"times")
        return Space(
            create_timing_cache=lambda data: cache, get_timing_cache=lambda: cache, **nothing
        )

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        return b"engine of " + network.graph


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network

    def parse(self, graph: bytes) -> bool:
        self.network.graph = graph
        return True


class Runtime:
    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, data: bytes) -> "Engine | None":
        factor = 3 if data.endswith(b"wrong") else 2
        return Engine(factor) if data.startswith(b"engine of ") else None


class Engine:
    num_io_tensors = 2

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> int:
        return 1 if name == "x" else 2

    def get_tensor_dtype(self, name: str) -> str:
        return "DataType.FLOAT"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 3)

    def create_execution_context(self) -> "Engine":
        return self

    def create_engine_inspector(self) -> Any:
        text = '{"Layers": [{"Name": "twice"}]}'
        return Space(get_engine_information=lambda form: text)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        x, y = ((ctypes.c_float * 3).from_address(self.addresses[name]) for name in "xy")
        y[:] = [self.factor * value for value in x]
        return True
