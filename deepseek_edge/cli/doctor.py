"""``deepseek-edge doctor``: what works on this machine, what is missing, how to get it."""

import dataclasses

from deepseek_edge.cli.output import FormatOption, print_json, print_lines
from deepseek_edge.errors import MissingToolError

SCHEMA = 1


def doctor_command(format: FormatOption = "readable") -> None:
    """Say what works on this machine, what is missing, and how to get it.

    Exits with 3 if something is missing without which nothing can be compiled.
    """
    from deepseek_edge.capabilities import find_capabilities
    from deepseek_edge.device.probes.findings import find_machine_state

    found = (*find_capabilities(), *find_machine_state())
    missing = [one.name for one in found if one.required and one.found is None]
    if format == "json":
        capabilities = [dataclasses.asdict(one) for one in found]
        print_json({"schema": SCHEMA, "ok": not missing, "capabilities": capabilities})
    else:
        width = max(len(one.name) for one in found)
        for one in found:
            state = one.found or ("MISSING" if one.required else "not installed")
            print_lines([f"{one.name:{width}}  {state}  ({one.purpose})"])
            if one.remedy is not None:
                print_lines([f"{'':{width}}  hint: {one.remedy}"])
    if missing:
        raise MissingToolError(
            f"nothing can be compiled here without {', '.join(missing)}",
            hint="install what the list above names",
        )
