"""Functions that a user names as "package.module:function"."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek_edge.errors import UsageError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_function_reference(text: str) -> bool:
    """Whether the text has the form "package.module:function"."""
    return _REFERENCE.fullmatch(text) is not None


def import_function(reference: str) -> Callable[..., Any]:
    """Import a function; modules are also looked up in the current directory.

    Args:
        reference: "package.module:function".

    Raises:
        UsageError: the module can't be found, or has no such function.
    """
    module_name, _, name = reference.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = "start in the folder that holds the package, or install it"
        if error.name and not module_name.startswith(error.name):
            hint = f"{module_name} needs the package {error.name}: install it"
        raise UsageError(f"can't import {module_name}: {error}", hint=hint) from error
    finally:
        # The module itself may have changed the path.
        if folder in sys.path:
            sys.path.remove(folder)
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        raise UsageError(
            f"{module_name} has no function {name}", hint="it has " + ", ".join(own or ["none"])
        )
    result: Callable[..., Any] = function
    return result
