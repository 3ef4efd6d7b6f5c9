"""Layer information of the graph ``residual()`` as two versions of TensorRT write it.

Keys, formats and names are those of published outputs: the Engine Inspector section of NVIDIA's
TensorRT Developer Guide (8.x), and of trtexec 10.x (read 2026-11-27). No board has recorded these
very files.
"""

from typing import Any

INT8_32 = "Thirty-two wide channel vectorized row major Int8 format"
INT8_4 = "Four wide channel vectorized row major Int8 format"
LINEAR_FP32 = "Row major linear FP32"
LINEAR_FP16 = "Row major linear FP16 format"


def layer(
    name: str, kind: str, reads: list[str], writes: list[str], **others: Any
) -> dict[str, Any]:
    def tensors(prefix: str, formats: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "Name": f"{prefix}{place}",
                "Location": "Device",
                "Dimensions": [1, 8, 12, 12],
                "Format/Datatype": text,
            }
            for place, text in enumerate(formats)
        ]

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": tensors("in", reads),
        "Outputs": tensors("out", writes),
        **others,
    }


# TensorRT 8.5: the int8 graph; its depthwise layer in half, its tail by Myelin.
VERSION_8_5: dict[str, Any] = {
    "Layers": [
        layer(
            "Reformatting CopyNode for Input Tensor 0 to a_node + a_relu_node",
            "Reformat",
            [LINEAR_FP32],
            [INT8_4],
            ParameterType="Reformat",
            Origin="REFORMAT",
            TacticValue="0x0000000000000000",
        ),
        layer(
            "a_node + a_relu_node",
            "CaskConvolution",
            [INT8_4],
            [INT8_32],
            ParameterType="Convolution",
            Kernel=[3, 3],
            Groups=1,
            Weights={"Type": "Int8", "Count": 216},
            Bias={"Type": "Float", "Count": 8},
            Activation="RELU",
            HasReLU=1,
            TacticName="sm72_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32",
            TacticValue="0x11bde0e1d9f2f35d",
        ),
        layer(
            "b_node + PWN(b_clip_node)",
            "CaskDepthwiseConvolution",
            [INT8_32],
            [LINEAR_FP16],
            ParameterType="Convolution",
            Weights={"Type": "Half", "Count": 72},
            TacticName="sm70_xmma_fprop_implicit_gemm_f16f16",
        ),
        layer(
            "c_node + sum_node",
            "CaskConvolution",
            [INT8_32, INT8_32],
            [INT8_32],
            Weights={"Type": "Int8", "Count": 64},
        ),
        layer("{ForeignNode[pooled_node...y_node]}", "Myelin", [LINEAR_FP32], [LINEAR_FP32]),
    ],
    "Bindings": ["x", "y"],
}

# TensorRT 10: the same graph, strongly typed; names of its own and metadata.
VERSION_10: dict[str, Any] = {
    "Layers": [
        layer(
            "__myl_Reform_myl0_0",
            "Reformat",
            ["Float"],
            ["Int8"],
            Metadata="",
            StreamId=0,
        ),
        layer(
            "a_node + a_relu_node_myl0_1",
            "CaskConvolution",
            [INT8_32],
            [INT8_32],
            Weights={"Type": "Int8", "Count": 216},
            TacticName="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32",
            Metadata="[ONNX Layer: a_node]\x1f[ONNX Layer: a_relu_node]",
            StreamId=0,
        ),
        layer(
            "b_node_myl0_2",
            "conv",
            ["Int8"],
            ["Int8"],
            Metadata="[ONNX Layer: b_node]\x1e[ONNX Layer: b_clip_node]",
        ),
        layer("c_node_myl0_3", "conv", ["Int8", "Int8"], ["Int8"], Metadata="[ONNX Layer: c_node]"),
        layer(
            "__myl_MeanMul_myl0_4",
            "kgen",
            ["Int8"],
            ["Float"],
            Metadata="[ONNX Layer: sum_node]\x1e[ONNX Layer: pooled_node]",
        ),
        layer(
            "y_node_gemm_myl0_5",
            "gemm",
            ["Half", "Half"],
            ["Float"],
            TacticName="sm80_xmma_gemm_f16f16_f16f16_f16_tn_n",
            Metadata="[ONNX Layer: y_node]",
        ),
    ],
    "Bindings": ["x", "y"],
}

# TensorRT 8.5 without detailed verbosity.
NAMES_ONLY: dict[str, Any] = {"Layers": ["a_node + a_relu_node", "b_node"], "Bindings": ["x", "y"]}
