"""`devlist`, in FreeBSD's form, with a line more for whatever is not as it should be."""

from collections.abc import Iterable, Iterator

from nvmecontrol.failure import printable
from nvmf_host.messages import ControllerInfo, NamespaceInfo

from .sizes import human_bytes

_INDENT = "          "


def devlist_lines(controllers: Iterable[ControllerInfo], *, human: bool) -> list[str]:
    """The lines for all controllers."""
    lines: list[str] = []
    for controller in controllers:
        lines += _controller_lines(controller)
        for namespace in controller.namespaces:
            lines += _namespace_lines(namespace, human=human)
        for refused in controller.refused:
            lines.append(f"{_INDENT}NSID {refused.nsid} not served: {refused.reason}")
    return [printable(line) for line in lines]


def _controller_lines(controller: ControllerInfo) -> Iterator[str]:
    seconds = int(controller.since_s)
    # Before the first association there is no model, only what was asked for.
    model = controller.model or controller.subnqn
    where = f"{controller.transport.upper()} {controller.address}"
    match controller.state:
        case "live":
            yield f"{controller.name:>6}: {model} (connected via {where})"
            yield from _fences(controller)
            return
        case "connecting":
            yield f"{controller.name:>6}: {model} (connecting via {where} for {seconds} seconds)"
        case "closing" | "closed":
            yield f"{controller.name:>6}: {model} (disconnecting from {where})"
        case _:
            yield f"{controller.name:>6}: {model} (disconnected for {seconds} seconds)"
    if controller.last_error:
        yield f"{_INDENT}{controller.last_error}"
    if controller.state in {"connecting", "lost", "reconnecting"}:
        yield f"{_INDENT}{_next_attempt(controller)}"
    if controller.fails_fast_in_s is not None:
        yield f"{_INDENT}{_fails_fast(controller.fails_fast_in_s)}"
    if controller.gives_up_in_s is not None:
        yield (
            f"{_INDENT}disconnected, and waiting I/O lost, in {controller.gives_up_in_s:.1f} "
            f"seconds (controller loss timeout); nvmecontrol set -l 0 {controller.name} stops that"
        )
    yield from _fences(controller)


def _fails_fast(seconds: float) -> str:
    if seconds > 0:
        return f"waiting I/O fails in {seconds:.1f} seconds (fast I/O fail)"
    return "I/O fails until the controller is back (fast I/O fail)"


def _fences(controller: ControllerInfo) -> Iterator[str]:
    if controller.fences:
        yield (
            f"{_INDENT}{_count(controller.fences, 'earlier connection')} may still execute writes; "
            f"see nvmecontrol paused {controller.name}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _next_attempt(controller: ControllerInfo) -> str:
    made = f"attempts: {controller.attempts}"
    if controller.next_attempt_s is not None:
        return (
            f"{made}; the next to {controller.address} in {controller.next_attempt_s:.1f} seconds"
        )
    if controller.state == "lost":
        return f"{made}; the next by hand: nvmecontrol reconnect {controller.name}"
    return f"{made}; the next to {controller.address} is under way"


def _namespace_lines(namespace: NamespaceInfo, *, human: bool) -> Iterator[str]:
    size = human_bytes(namespace.size_bytes) if human else f"{namespace.size_bytes >> 20}MB"
    traits = ["read-only"] if namespace.read_only else []
    if namespace.same_as is not None:
        traits.append(f"same as {namespace.same_as}")
    if namespace.state != "live":
        traits.append(namespace.state)
    if namespace.waiting_requests:
        traits.append(f"{_count(namespace.waiting_requests, 'request')} waiting")
    if namespace.ambiguous_writes:
        traits.append(f"{_count(namespace.ambiguous_writes, 'write')} ambiguous")
    if namespace.quarantined_ranges:
        traits.append(f"{_count(namespace.quarantined_ranges, 'range')} in quarantine")
    if namespace.unflushed_bytes:
        traits.append(f"{human_bytes(namespace.unflushed_bytes)} unflushed")
    line = f"  {namespace.name:>10} ({size})"
    yield f"{line} {', '.join(traits)}" if traits else line
    if namespace.reason:
        yield f"{_INDENT}  {namespace.reason}"
