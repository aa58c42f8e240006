"""The log pages by number and name: how long each is, and who decodes it."""

from collections.abc import Callable
from typing import Any, Final

import attrs

from nvmf_transport.identify import IdentifyController
from nvmf_transport.logs import AnaGroupHeader, AnaLogHeader, ErrorEntry, LogId

from .text import logs

#: Of a page whose length nobody here knows.
UNKNOWN_BYTES: Final = 512
#: So many NSIDs at most are asked for in an ANA log: what the daemon passes on at once.
_MAX_ANA_NSIDS: Final = 65536


def _error_bytes(controller: IdentifyController) -> int:
    return ErrorEntry.SIZE * (controller.elpe + 1)


def _ana_bytes(controller: IdentifyController) -> int:
    """The most that the page can have (Base 2.1, section 5.1.12.1.13)."""
    nsids = min(controller.mnan or controller.nn, _MAX_ANA_NSIDS)
    return AnaLogHeader.SIZE + controller.nanagrpid * AnaGroupHeader.SIZE + 4 * nsids


@attrs.frozen(kw_only=True)
class Page:
    """One log page."""

    lid: int
    name: str
    title: str
    #: A number, or what tells it from identify data.
    length_bytes: int | Callable[[IdentifyController], int] = UNKNOWN_BYTES
    lines: Callable[[bytes], list[str]] | None = None
    as_json: Callable[[bytes], dict[str, Any]] | None = None


PAGES: Final = (
    Page(
        lid=LogId.ERROR,
        name="error",
        title="Error Information",
        length_bytes=_error_bytes,
        lines=logs.error_lines,
        as_json=logs.error_json,
    ),
    Page(
        lid=LogId.HEALTH,
        name="health",
        title="SMART / Health Information",
        lines=logs.health_lines,
        as_json=logs.health_json,
    ),
    Page(
        lid=LogId.FIRMWARE_SLOT,
        name="firmware",
        title="Firmware Slot Information",
        lines=logs.firmware_lines,
        as_json=logs.firmware_json,
    ),
    Page(
        lid=LogId.CHANGED_NAMESPACES,
        name="changed-ns",
        title="Changed Namespace List",
        length_bytes=4096,
        lines=logs.changed_lines,
        as_json=logs.changed_json,
    ),
    Page(
        lid=LogId.COMMAND_EFFECTS,
        name="effects",
        title="Commands Supported and Effects",
        length_bytes=4096,
        lines=logs.effects_lines,
        as_json=logs.effects_json,
    ),
    Page(lid=0x06, name="self-test", title="Device Self-test", length_bytes=564),
    Page(lid=0x07, name="telemetry-host", title="Telemetry Host-Initiated"),
    Page(lid=0x08, name="telemetry-controller", title="Telemetry Controller-Initiated"),
    Page(lid=0x09, name="endurance", title="Endurance Group Information"),
    Page(lid=0x0A, name="predictable-latency", title="Predictable Latency Per NVM Set"),
    Page(lid=0x0B, name="predictable-events", title="Predictable Latency Event Aggregate"),
    Page(
        lid=LogId.ANA,
        name="ana",
        title="Asymmetric Namespace Access",
        length_bytes=_ana_bytes,
        lines=logs.ana_lines,
        as_json=logs.ana_json,
    ),
    Page(lid=0x0D, name="persistent-event", title="Persistent Event Log"),
    Page(lid=0x0E, name="lba-status", title="LBA Status Information"),
    Page(lid=0x0F, name="endurance-event", title="Endurance Group Event Aggregate"),
    Page(lid=LogId.DISCOVERY, name="discovery", title="Discovery", length_bytes=1024),
    Page(lid=0x80, name="reservation", title="Reservation Notification", length_bytes=64),
    Page(lid=0x81, name="sanitize", title="Sanitize Status"),
)

BY_NAME: Final = {page.name: page for page in PAGES} | {
    "smart": next(page for page in PAGES if page.lid == LogId.HEALTH)
}
BY_LID: Final = {page.lid: page for page in PAGES}


def unknown_page(lid: int) -> Page:
    """A page that nobody here knows."""
    return Page(lid=lid, name=f"{lid:02x}h", title=f"Log Page {lid:02x}h")


def page_table() -> list[str]:
    """What `-p help` prints."""
    lines = [
        f"{'Page':<6}{'Name':<22}{'Title':<38}Shown as",
        f"{'-' * 4:<6}{'-' * 4:<22}{'-' * 5:<38}{'-' * 8}",
    ]
    for page in PAGES:
        decoded = page.lines is not None or page.lid == LogId.DISCOVERY
        shown = "text" if decoded else "hex dump"
        lines.append(f"{f'{page.lid:02x}h':<6}{page.name:<22}{page.title:<38}{shown}")
    return lines
