"""The family of errors a user may see. Each message says what was wrong, where, and what would be right."""

import difflib
from collections.abc import Sequence


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint at the name that was meant, or at those that there are."""
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"


class EdgekitError(Exception):
    """A failure with a clear cause; the command line prints its one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(EdgekitError):
    """The command was called wrongly: a bad experiment file, override or argument."""

    exit_code = 2


class ExperimentError(UsageError):
    """An experiment file or override breaks the schema."""


class DataError(EdgekitError):
    """Data is missing, corrupt, or cannot be divided as asked."""


class ModelError(EdgekitError):
    """A model cannot be built, or cannot do what the experiment asks of it."""


class TrainingError(EdgekitError):
    """Federated training cannot go on."""


class PrivacyError(EdgekitError):
    """A privacy target cannot be met, or an experiment would void it."""


class ExportError(EdgekitError):
    """A file for devices cannot be made, or failed its check."""


class ConversionError(EdgekitError):
    """A network cannot be turned into spiking form."""


class LavaError(EdgekitError):
    """Lava is not there, failed, or hung."""


class RunFolderError(EdgekitError):
    """A run folder cannot be written, read or resumed."""


class MissingExtraError(EdgekitError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'edgekit[{extra}]'")


class LinkDownError(EdgekitError):
    """The other side cannot be reached now; trying again later may help."""


class RefusedError(EdgekitError):
    """The other side does not accept this node, or sent what cannot be accepted."""


class StaleError(EdgekitError):
    """What was sent is not wanted any more: a round that ended, or a message that was answered."""


class StoppedError(EdgekitError):
    """Work was stopped in the middle, to be begun again."""


class JoinError(EdgekitError):
    """A device cannot take part in a federation."""


class ServeError(EdgekitError):
    """The coordinator cannot serve a federation."""
