"""Activation checkpointing: keep a module's inputs, and compute the rest again going backward."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepseek_edge.errors import UsageError

_CONTAINERS = (nn.Sequential, nn.ModuleList)


@contextmanager
def checkpointed_activations(
    model: nn.Module, modules: bool | Sequence[str] = True
) -> Iterator[None]:
    """Within the block, training steps keep only the inputs of some modules.

    Gradients are the same: random numbers are repeated, and what the first pass changed in
    buffers (batch statistics, observers) is not changed again by the second.

    Args:
        model: changed while the block runs.
        modules: names of modules; True: see :func:`recomputable`; False: none.

    Raises:
        UsageError: there is no module of that name, or none to choose.
    """
    names = _chosen(model, modules)
    held = [(module, module.__dict__.get("forward")) for module in map(model.get_submodule, names)]
    for module, _ in held:
        module.forward = partial(_forward, module, module.forward)
    try:
        yield
    finally:
        for module, own in held:
            del module.__dict__["forward"]
            if own is not None:
                module.forward = own


def recomputable(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that are worth it: the blocks of a network.

    These are children of ``nn.Sequential`` and ``nn.ModuleList`` that have children themselves,
    the outermost ones, where a sequence of such blocks counts as its blocks.
    """
    return tuple(_blocks(model, ""))


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        path = prefix + name
        is_chain = isinstance(child, _CONTAINERS) and any(True for _ in _grandchildren(child))
        if isinstance(module, _CONTAINERS) and any(True for _ in child.children()) and not is_chain:
            yield path
        else:
            yield from _blocks(child, path + ".")


def _grandchildren(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from child.children()


def _chosen(model: nn.Module, modules: bool | Sequence[str]) -> Sequence[str]:
    if isinstance(modules, bool):
        names = recomputable(model) if modules else ()
        if modules and not names:
            raise UsageError(
                "the model has no blocks in a sequence whose activations could be computed again",
                hint="name modules: checkpoint_activations=('encoder', ...)",
            )
        return names
    known = {name for name, _ in model.named_modules()}
    if unknown := [name for name in modules if name not in known]:
        raise UsageError(
            f"checkpoint_activations names {unknown[0]!r}, which the model doesn't have",
            hint="names are those of named_modules()",
        )
    return modules


def _forward(module: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (module.training and torch.is_grad_enabled()):
        return original(*args, **kwargs)
    contexts = partial(_contexts, module)
    return checkpoint(original, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    before: list[dict[str, Tensor | None]] = []
    return _remember_buffers(module, before), _repeat_with_buffers(module, before)


@contextmanager
def _remember_buffers(module: nn.Module, before: list[dict[str, Tensor | None]]) -> Iterator[None]:
    before.extend(
        {name: None if b is None else b.clone() for name, b in part._buffers.items()}
        for part in module.modules()
    )
    yield


@contextmanager
def _repeat_with_buffers(
    module: nn.Module, before: list[dict[str, Tensor | None]]
) -> Iterator[None]:
    """Compute on copies of the buffers as they were, so that nothing is counted twice."""
    parts = list(module.modules())
    now = [dict(part._buffers) for part in parts]
    for part, buffers in zip(parts, before, strict=True):
        part._buffers.update(buffers)
    try:
        yield
    finally:
        for part, buffers in zip(parts, now, strict=True):
            part._buffers.update(buffers)
