"""Whether what is known of a class still holds for an object of a subclass."""

import inspect
from collections.abc import Sequence


def is_unchanged(value: object, kind: type, members: Sequence[str]) -> bool:
    """Whether the value is of this kind and has these members from it, none of them replaced.

    `isinstance` alone would apply the theorems on a class to subclasses that compute something
    else.
    """
    return isinstance(value, kind) and all(
        inspect.getattr_static(type(value), name) is inspect.getattr_static(kind, name)
        for name in members
    )


def inherited_beside(kind: type, member: str, others: Sequence[str]) -> list[str]:
    """Which of the others a class inherits from a parent whose `member` it replaces.

    They go with the parent's `member`: a new objective beside an inherited gradient would be
    descended along the gradient of another function. A parent whose `member` is abstract forms the
    others from that of the subclass.
    """
    mro = kind.__mro__

    def defined_at(name: str, start: int = 0) -> int:
        found = (i for i, base in enumerate(mro) if i >= start and _defines(base, name))
        return next(found, len(mro))

    replaced = defined_at(member)
    return [
        name
        for name in others
        if replaced < (i := defined_at(name)) and defined_at(member, i) < len(mro)
    ]


def _defines(base: type, name: str) -> bool:
    return name in vars(base) and not getattr(vars(base)[name], "__isabstractmethod__", False)
