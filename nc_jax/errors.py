"""An error that has the names of the wrong arguments as data, for programs that report it."""

import re


class ArgumentError(ValueError):
    """A ValueError with the names of the arguments that are wrong.

    A script whose flag --K sets the argument `num_classes` can then name the flag in its message.

    Attributes:
        arguments: names of the parameters. The first is the one with which the message begins.

    Example:
        >>> try:
        ...     nc.ulpm(0, 4, 2)
        ... except ValueError as error:
        ...     print(error.arguments, error)
        ('num_classes',) num_classes = 0: give an integer >= 1.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        # "widths[0]" is an entry of `widths`, "controller.rtol" a member of `controller`, and
        # "weight decay classifier" the argument `classifier` of a weight decay.
        self.arguments = tuple(re.split(r"[\[.]", name)[0].split()[-1] for name in arguments)
