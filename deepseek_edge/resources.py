"""Where the data files that ship with the package are."""

from pathlib import Path

from deepseek_edge.errors import MissingToolError


def resource_dir(name: str) -> Path:
    """The folder ``name`` of the installed wheel, or of the checkout this package lies in.

    Args:
        name: "targets" or "calibration".

    Raises:
        MissingToolError: neither has it, so the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    # The wheel's copy first: beside an installed package lie other people's packages.
    for folder in (package / "_data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise MissingToolError(
        f"the folder '{name}' of deepseek-edge is missing",
        hint="reinstall the package: pip install --force-reinstall deepseek-edge",
    )
