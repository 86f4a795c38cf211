"""The one exception tree of edgeae.

::

    EdgeAEError
    ├── ModelError            a bundle or graph is missing, changed, or cannot do what was asked
    ├── StreamError           bytes that are not a good edgeae stream
    │   ├── NotAStreamError       wrong magic
    │   ├── VersionError          written by a newer format version
    │   ├── TruncatedError        the bytes ran out
    │   ├── CorruptError          a checksum or a rule of the format is broken
    │   └── WrongModelError       coded with another bundle
    ├── SignalError           samples or files that cannot be used as given
    └── ConfigError           an option or recipe field that makes no sense
        └── DependencyError       a package of an extra is not installed

Messages say what was found, what was expected and what to do. Errors of foreign packages are
translated where they cross into edgeae, with the cause chained.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "CorruptError",
    "DependencyError",
    "EdgeAEError",
    "ModelError",
    "NotAStreamError",
    "SignalError",
    "StreamError",
    "TruncatedError",
    "VersionError",
    "WrongModelError",
]


class EdgeAEError(Exception):
    """Base of every error that edgeae raises on purpose."""


class ModelError(EdgeAEError):
    """A bundle or graph is missing, changed, or cannot do what was asked."""


class StreamError(EdgeAEError):
    """Bytes that are not a good edgeae stream."""


class NotAStreamError(StreamError):
    """The bytes do not start with the magic of an edgeae stream."""


class VersionError(StreamError):
    """The stream or bundle was written by a newer version of the format."""


class TruncatedError(StreamError):
    """The bytes ran out before the stream's end."""


class CorruptError(StreamError):
    """A checksum or a rule of the format is broken."""


class WrongModelError(StreamError):
    """The stream was coded with another bundle."""


class SignalError(EdgeAEError):
    """Samples or files that cannot be used as given."""


class ConfigError(EdgeAEError):
    """An option or recipe field that makes no sense."""


class DependencyError(ConfigError):
    """A package of an optional extra is not installed.

    Args:
        package: name of the missing package.
        extra: the extra of edgeae that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed, and this needs it. "
            f'Install it with: pip install "edgeae[{extra}]"'
        )
