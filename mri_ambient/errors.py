"""Errors a user can meet; the command line turns each into one line and an exit code.

Every message says what was found, what was wanted and what to do. Programmer mistakes are
``ValueError`` and ``TypeError`` and keep their traceback.
"""


class MriAmbientError(Exception):
    """Anything a user can cause and repair."""


class ScanFormatError(MriAmbientError):
    """A file is not a scan we can read, or its content cannot be right."""


class PrepError(MriAmbientError):
    """A scan was read but cannot be prepared (no calibration block, all zeros, ...)."""


class CheckpointError(MriAmbientError):
    """A prior or checkpoint file is damaged, foreign, or does not fit what it is used for."""


class ConfigError(MriAmbientError):
    """Options that cannot work, alone or together."""


class OutputExistsError(MriAmbientError):
    """What would be written is there already and was made with other settings."""


class StoppedError(MriAmbientError):
    """Stopped before there was anything to keep."""


class DeviceError(MriAmbientError):
    """No usable device, or out of memory after backing off."""


class NumericalWarning(UserWarning):
    """Numerical doubt: the result was computed but deserves a look."""
