"""Post-training quantization: a float graph and calibration data in, a Q/DQ graph out."""

from deepseek_edge.quantization.config import QuantConfig
from deepseek_edge.quantization.quantizer import QuantizedModel, Quantizer
from deepseek_edge.quantization.table import CalibrationTable, read_table, write_table

__all__ = [
    "CalibrationTable",
    "QuantConfig",
    "QuantizedModel",
    "Quantizer",
    "read_table",
    "write_table",
]
