"""Quantization-aware training of any graph that can be quantized; imports torch."""

from deepseek_edge.quantization.qat.fine_tuning import fine_tune, from_module, to_module
from deepseek_edge.quantization.qat.graph_module import GraphModule

__all__ = ["GraphModule", "fine_tune", "from_module", "to_module"]
