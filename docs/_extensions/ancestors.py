"""Where a node stands in a document."""

from docutils import nodes


def is_within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    """Whether a node stands within another one of these kinds."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False
