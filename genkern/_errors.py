"""Ends of a training run that are not its end; apart from the loop, so that the command line knows them at once."""


class Interrupted(RuntimeError):
    """The run was asked to stop (Ctrl-C, SIGTERM), and did after writing a checkpoint."""


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""
