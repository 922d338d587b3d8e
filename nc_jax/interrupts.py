"""Ctrl-C that is not lost, for loops that call compiled programs."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def lasting_interrupts() -> Iterator[Callable[[], None]]:
    """A function that raises KeyboardInterrupt if Ctrl-C was pressed since the context began.

    Python raises KeyboardInterrupt wherever the main thread is. Within JAX's callback of the
    garbage collector it is printed and lost, and a loop of hours would continue. Called once in
    each iteration, the function raises it again.

    A handler of the user's is left alone. So are threads other than the main one, which Ctrl-C does
    not reach.
    """
    pressed = False
    default = signal.default_int_handler

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        default(number, frame)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not default:
        yield check
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, default)
