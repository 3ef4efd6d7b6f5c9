"""Hugging Face folders to ONNX: config.json and safetensors, nothing downloaded or executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_edge.errors import MissingToolError, ModelError, UnsupportedError
from deepseek_edge.export.torch_module import export_module, first_line, require_torch

if TYPE_CHECKING:
    import onnx
    import torch
    from transformers import PreTrainedModel

# Tokens of the example; the exported graph leaves the number open.
_EXAMPLE_TOKENS = 16


def load_hugging_face(folder: Path) -> onnx.ModelProto:
    """Export a vision model or text encoder of transformers.

    Args:
        folder: with config.json and *.safetensors.

    Returns:
        A graph with input ``pixel_values`` (batch, channels, height, width) float32, or
        ``input_ids`` and ``attention_mask`` (batch, sequence) int64; give the sequence with
        ``--shape input_ids=1,128``. Its output is ``logits``, or ``last_hidden_state`` without
        a head.

    Raises:
        ModelError: no or a bad config.json, or the weights don't fit it.
        UnsupportedError: code from the folder would have to be run, or the architecture is
            neither vision nor an encoder; also MissingToolError without the extra ``torch``.
    """
    config = _read_config(folder)
    require_torch()
    model = _load(folder, config)
    if model.main_input_name == "pixel_values":
        return _export_vision(model)
    if model.main_input_name == "input_ids" and not getattr(model.config, "is_decoder", False):
        return _export_encoder(model)
    raise UnsupportedError(
        f"{type(model).__name__} is neither a vision model nor a text encoder",
        hint="export it to .onnx yourself, or write a package.module:factory",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    hint = "a Hugging Face folder holds config.json and *.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json", hint=hint)
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", hint=hint) from error
    if not isinstance(config, dict) or not config.get("architectures"):
        raise ModelError(f"{path} names no architecture", hint=hint)
    if config.get("auto_map"):
        raise UnsupportedError(
            f"{folder} brings Python code of its own, which is never run",
            hint="write a package.module:factory that builds the model",
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors", hint="pickled weights are not read")
    return config


def _load(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    try:
        import transformers
    except ImportError:
        raise MissingToolError(
            "transformers is needed to read a Hugging Face folder",
            hint="pip install 'deepseek-edge[torch]'",
        ) from None
    name = config["architectures"][0]
    architecture: Any = getattr(transformers, name, None)
    if not hasattr(architecture, "from_pretrained"):
        raise UnsupportedError(
            f"transformers {transformers.__version__} has no architecture {name}",
            hint="write a package.module:factory that builds the model",
        )
    transformers.utils.logging.disable_progress_bar()
    try:
        # Eager attention has the fewest operators; it is for the compiler to fuse them.
        model, report = architecture.from_pretrained(
            str(folder.resolve()),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"can't read {folder}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of {name}, the first is {missing[0]}",
            hint="its config.json belongs to another model",
        )
    result: PreTrainedModel = model.eval()
    return result


def _export_vision(model: PreTrainedModel) -> onnx.ModelProto:
    import torch

    config = model.config
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    example = torch.zeros(1, getattr(config, "num_channels", 3), height, width)

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return _first_output(self.model(pixel_values=pixel_values))

    return export_module(Vision(), (example,), output_names=(_output_name(model),))


def _export_encoder(model: PreTrainedModel) -> onnx.ModelProto:
    import torch

    example = torch.ones(1, _EXAMPLE_TOKENS, dtype=torch.int64)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            # Given in this form the mask is used as it is; otherwise transformers gathers it
            # index by index.
            hidden = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -1e9
            kinds = {}
            if getattr(self.model.config, "type_vocab_size", 0):
                kinds["token_type_ids"] = torch.zeros_like(input_ids)
            return _first_output(self.model(input_ids=input_ids, attention_mask=hidden, **kinds))

    positions = getattr(model.config, "max_position_embeddings", None)
    dims = {
        0: torch.export.Dim("batch", min=1),
        1: torch.export.Dim("sequence", min=1, max=positions),
    }
    return export_module(
        Encoder(), (example, example), dynamic=(dims, dims), output_names=(_output_name(model),)
    )


def _first_output(outputs: Any) -> torch.Tensor:
    result: torch.Tensor = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    return result


def _output_name(model: PreTrainedModel) -> str:
    return "last_hidden_state" if type(model).__name__.endswith("Model") else "logits"
