"""Every error this package raises on purpose, with the exit code of the command line.

DeepSeekEdgeError                1  the job failed
|-- UsageError                   2  the request can't be meant: fix the command
|   |-- UnknownTargetError       2
|   |-- ModelError               2  the model file can't be read as what it claims to be
|   `-- InputError               2  a tensor has a wrong name, dtype or shape
|-- UnsupportedError             3  understood, but not supported here
|   `-- MissingToolError         3  a tool or package is not installed
|-- ParityError                  1  the artifact does not compute what its graph says
|-- AccuracyError                1  a task metric fell below its gate
|-- TrainingError                1  training diverged or ran out of memory
|-- OutputError                  1  a file could not be written
|-- DeviceError                  4  a device can't be reached or vanished
|   `-- ProbeError               4  a device answered something that can't be read
|-- BundleError                  5  a bundle or its signature is refused
`-- RolledBackError              6  an update was undone
"""


class DeepSeekEdgeError(Exception):
    """Base of all errors meant for a person: one line of what, one line of what to do.

    Attributes:
        hint: what the reader can do about it, or None.
        exit_code: what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(DeepSeekEdgeError):
    """The request contradicts itself or names something that doesn't exist."""

    exit_code = 2


class UnknownTargetError(UsageError):
    """No target has this id."""


class ModelError(UsageError):
    """The model file is damaged, or not of the kind its name says."""


class InputError(UsageError):
    """A tensor given by the user has a wrong name, dtype or shape."""


class UnsupportedError(DeepSeekEdgeError):
    """Understood, but this target, operator or option is not supported."""

    exit_code = 3


class MissingToolError(UnsupportedError):
    """A program or package that this job needs is not installed."""


class ParityError(DeepSeekEdgeError):
    """The artifact's outputs differ from its graph's by more than the contract allows."""


class AccuracyError(DeepSeekEdgeError):
    """A task metric fell by more than the gate allows.

    Attributes:
        message: the first line.
        rows: a table of what was tried, the lines below it.
    """

    def __init__(
        self, message: str, *, rows: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__("\n".join([message, *rows]), hint=hint)
        self.message = message
        self.rows = rows


class TrainingError(DeepSeekEdgeError):
    """Training stopped: a loss or weights are not finite, or the memory is too small."""


class OutputError(DeepSeekEdgeError):
    """A result could not be written; nothing half-written is left."""


class DeviceError(DeepSeekEdgeError):
    """A device can't be reached, or went away."""

    exit_code = 4


class ProbeError(DeviceError):
    """A file or tool of a device answered something that isn't what it is known to say."""


class BundleError(DeepSeekEdgeError):
    """A bundle is damaged, hostile or not signed by a trusted key."""

    exit_code = 5


class RolledBackError(DeepSeekEdgeError):
    """An update failed its health check and was undone."""

    exit_code = 6
