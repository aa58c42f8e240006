"""Extended attributes: what is known of a node, as text, to read only."""

from collections.abc import Callable, Mapping
from typing import Final

from .handles import Usage
from .nodes import ControllerNode, ControlNode, NamespaceNode, Node

PREFIX: Final = "user.nvme."


def describe(
    node: Node, usage: Usage, state: Callable[[], Mapping[str, str]] = dict
) -> dict[bytes, bytes]:
    """The extended attributes of a node, by full name.  What is not known has none.

    `state` gives more of them for the control node.
    """
    values: Mapping[str, str | int | None]
    match node:
        case NamespaceNode():
            values = _namespace(node)
        case ControllerNode():
            values = _controller(node)
        case ControlNode():
            # Held by requests that the namespaces have not answered yet.
            values = {
                "waiting_requests": usage.requests,
                "waiting_write_bytes": usage.write_bytes,
                **state(),
            }
        case _:
            values = {}
    return {
        f"{PREFIX}{name}".encode(): str(value).encode("utf-8", "replace")
        for name, value in values.items()
        if value is not None
    }


def _controller(node: ControllerNode | NamespaceNode) -> dict[str, str | int | None]:
    info = node.controller.info()
    return {
        "subnqn": info.subnqn,
        "address": info.address,
        "state": info.state,
        "last_error": info.last_error,
    }


def _namespace(node: NamespaceNode) -> dict[str, str | int | None]:
    info = node.namespace.info()
    return {
        "nsid": info.nsid,
        "uuid": info.uuid,
        "nguid": info.nguid,
        "eui64": info.eui64,
        "lba_bytes": info.lba_bytes,
        "size_lbas": info.size_lbas,
        **_controller(node),
        "state": info.state if info.same_as is None else f"same as {info.same_as}",
        "last_error": info.last_error,
    }
