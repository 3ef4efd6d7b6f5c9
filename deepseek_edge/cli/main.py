"""``deepseek-edge``: the verbs, and what becomes of their errors."""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from deepseek_edge.cli import bundle, compile, doctor, profile, prune, quantize, run, target
from deepseek_edge.cli.output import print_error
from deepseek_edge.errors import AccuracyError, DeepSeekEdgeError, UsageError

INTERRUPTED = 130

app = typer.Typer(
    help="Compile neural networks for edge devices: one small library, run and checked here.",
    epilog="Every verb takes -v for more narration and -vv for a traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(target.app, name="target")
app.command("compile")(compile.compile_command)
app.command("calibrate")(quantize.calibrate_command)
app.command("quantize")(quantize.quantize_command)
app.command("prune")(prune.prune_command)
app.add_typer(bundle.app, name="bundle")
app.command("run")(run.run_command)
app.command("profile")(profile.profile_command)
app.command("doctor")(doctor.doctor_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage, 3 unsupported or a tool is missing,
        4 device unreachable, 5 bundle refused, 6 rolled back, 130 interrupted.
    """
    verbosity, rest = take_verbosity(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(rest, prog_name="deepseek-edge", standalone_mode=False, obj=verbosity)
        if code == INTERRUPTED:
            print_error("interrupted", None)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader went away; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if verbosity >= 2:
            traceback.print_exception(error)
        return explain(error)


def take_verbosity(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Take -v and -vv out of the arguments, wherever they stand, so that every verb has them."""
    levels = {"-v": 1, "--verbose": 1, "-vv": 2}
    rest = [argument for argument in arguments if argument not in levels]
    return sum(levels.get(argument, 0) for argument in arguments), rest


def explain(error: BaseException) -> int:
    """Print an error for a person, and return its exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print_error("interrupted", None)
        return INTERRUPTED
    if isinstance(error, AccuracyError):
        print_error(error.message, error.hint, error.rows)
        return error.exit_code
    if isinstance(error, DeepSeekEdgeError):
        print_error(str(error), error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        return _explain_usage(error)
    name = type(error).__name__
    print_error(f"{name}: {error}", "this was not foreseen: run it again with -vv and report it")
    return DeepSeekEdgeError.exit_code


def _explain_usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    command = "deepseek-edge" if context is None else context.command_path
    message = getattr(error, "message", "") or str(error)
    with contextlib.suppress(AttributeError):
        message = error.format_message() or message
    if message:
        print_error(message, f"{command} --help")
    return UsageError.exit_code
