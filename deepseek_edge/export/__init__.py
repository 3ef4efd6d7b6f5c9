"""Models in: whatever a user has becomes an ONNX graph with static shapes."""

from deepseek_edge.export.load import load_model, load_module
from deepseek_edge.export.shapes import fix_shapes

__all__ = ["fix_shapes", "load_model", "load_module"]
