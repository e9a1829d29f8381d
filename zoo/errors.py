"""The one error a user's mistake raises: a single sentence that names the thing and what would be right."""


class ZooError(ValueError):
    """A fault in what the user gave (an entry, a checkpoint, a name, a config), said in one sentence.

    Commands print it without a traceback and exit with code 1.
    """
