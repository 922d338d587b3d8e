"""Handle Ctrl-C reliably in loops on the host that call compiled programs."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def lasting_interrupts() -> Iterator[Callable[[], None]]:
    """Remember Ctrl-C within a block; yields a function that raises KeyboardInterrupt after Ctrl-C.

    Python raises KeyboardInterrupt at whatever point the main thread has reached. Within JAX's
    callback of the garbage collector the exception is printed and lost, and a loop of hours would
    continue. A loop calls the function once in each iteration, which raises the exception again.

    If the user has installed a handler, it stays in place, and Ctrl-C is not remembered. Threads
    other than the main thread never receive Ctrl-C.

    Example:

        >>> from nc_jax.interrupts import lasting_interrupts
        >>> with lasting_interrupts() as check_interrupt:
        ...     for _ in range(3):
        ...         check_interrupt()  # raises KeyboardInterrupt after Ctrl-C
    """
    pressed = False
    default = signal.default_int_handler

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        # Also at once, so that code which does not call `check` for long is interrupted.
        default(number, frame)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    # Python lets only the main thread install a handler.
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not default:
        yield check
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, default)
