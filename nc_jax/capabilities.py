"""Which claims about a class still hold for its subclasses.

A class states what has been proved of its formulas as class attributes, such as
`CrossEntropy.shift_invariant = True`, and theorems ask an object for these attributes. A subclass
that replaces a formula inherits the attributes too, but the proof is of the formula of its parent.
`void_inherited_claims` sets such attributes to False. A test by `isinstance` would still pass, and
the theorem would be applied to another formula.
"""

from collections.abc import Sequence


def void_inherited_claims(kind: type, claims: Sequence[str], formulas: Sequence[str]) -> None:
    """Set inherited claims to False if the class replaces a formula that they are about.

    A claim holds for the formulas of the class that states it, and of the parents of that class. A
    class that replaces a formula, and for which a claim is still true, states the claim again. This
    function is called from `__init_subclass__`.

    Args:
        kind: the new class.
        claims: names of class attributes that are True or False.
        formulas: names of the methods and properties that the claims are about.
    """
    # The smaller the index, the closer is the class to `kind`. A claim is void if a formula is
    # defined in a class before the one that states the claim.
    replaced = min(_definition(kind, name) for name in formulas)
    for claim in claims:
        if replaced < _definition(kind, claim):
            setattr(kind, claim, False)


def inherited_beside(kind: type, member: str, others: Sequence[str]) -> list[str]:
    """Names of inherited members that may not fit to a `member` that a class overrides.

    A class that overrides only the objective of its parent still inherits the parent's gradient,
    which is that of another function. If `member` is abstract in the parent, the parent computes
    its other members from the `member` of the subclass; they fit, and are not listed.
    """
    replaced = _definition(kind, member)

    def belongs_to_replaced(name: str) -> bool:
        # The class that defines `name`, or a parent of it, also defines `member`. Then `name` was
        # written for that definition, and not for the one that replaces it.
        index = _definition(kind, name)
        return replaced < index and _definition(kind, member, start=index) < len(kind.__mro__)

    return [name for name in others if belongs_to_replaced(name)]


def _definition(kind: type, name: str, *, start: int = 0) -> int:
    """Index in the method resolution order of the first class that defines a name, from `start` on.

    The length of the order where no class does. Abstract methods are no definitions.
    """
    order = kind.__mro__
    for index in range(start, len(order)):
        member = vars(order[index]).get(name)
        if member is not None and not getattr(member, "__isabstractmethod__", False):
            return index
    return len(order)
