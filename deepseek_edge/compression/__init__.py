"""Make a model smaller before it is compiled: whole channels go, the code stays as it is."""

from typing import TYPE_CHECKING, Any

from deepseek_edge.compression.shapes import LayerShape

if TYPE_CHECKING:
    from deepseek_edge.compression.prune_report import PruneReport
    from deepseek_edge.compression.pruner import ChannelPruner, PrunedModel
    from deepseek_edge.compression.sparsity import SparsityTrainer

__all__ = ["ChannelPruner", "LayerShape", "PruneReport", "PrunedModel", "SparsityTrainer"]


def __getattr__(name: str) -> Any:
    """Load torch for those who prune only: the command line needs ``LayerShape`` alone."""
    if name in __all__:
        from deepseek_edge.compression import prune_report, pruner, sparsity

        return next(
            vars(one)[name] for one in (pruner, sparsity, prune_report) if hasattr(one, name)
        )
    raise AttributeError(f"module {__name__} has no attribute {name}")
