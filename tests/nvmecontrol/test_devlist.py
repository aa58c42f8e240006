"""devlist: what is printed for every state."""

import attrs
import pytest

from nvmecontrol.text.sizes import human_bytes
from nvmf_host.messages import DevlistResult, Parameter, RefusedNamespace
from nvmf_host.state import ControllerState, NamespaceState

from .fakes import FakeDaemon, controller, namespace, run


def devlist(*controllers, arguments=()):
    daemon = FakeDaemon({"devlist": DevlistResult(controllers=tuple(controllers))})
    return run("devlist", *arguments, daemon=daemon)


def test_live_controllers_are_listed_as_freebsd_does():
    first = controller(namespaces=(namespace(), namespace(name="nvme0ns2", size_bytes=5 << 30)))
    tenth = controller(name="nvme10", model="Other", address="[2001:db8::1]:4420", namespaces=())

    outcome = devlist(first, tenth)

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        " nvme0: Linux (connected via TCP 192.0.2.1:4420)\n"
        "    nvme0ns1 (64MB)\n"
        "    nvme0ns2 (5120MB)\n"
        "nvme10: Other (connected via TCP [2001:db8::1]:4420)\n"
    )


def test_human_sizes():
    first = controller(namespaces=(namespace(size_bytes=(5 << 30) + (1 << 29)),))

    outcome = devlist(first, arguments=["-h"])

    assert "    nvme0ns1 (5.5GB)\n" in outcome.out


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0B"), (512, "512B"), (1024, "1KB"), (1536, "1.5KB"), (1 << 30, "1GB"),
     ((1 << 64) - 512, "16EB"), (1 << 75, "32768EB")],
)  # fmt: skip
def test_human_bytes(size_bytes, text):
    assert text == human_bytes(size_bytes)


def test_whatever_is_not_as_it_should_be_is_said_with_its_cure():
    held = namespace(state="held", waiting_requests=12, ambiguous_writes=3)
    reconnecting = controller(
        state="lost",
        since_s=12.9,
        last_error="connect: connection refused",
        attempts=4,
        next_attempt_s=3.25,
        namespaces=(held,),
    )
    by_hand = controller(
        name="nvme1", state="lost", since_s=1.0, last_error="closed by the peer", namespaces=()
    )
    under_way = controller(
        name="nvme2", state="reconnecting", since_s=0.4, attempts=1, namespaces=()
    )
    paused = controller(
        name="nvme3",
        namespaces=(
            namespace(
                name="nvme3ns1",
                state="paused",
                reason="UUID was aa, is bb; disconnect it, or bring the old one back",
                waiting_requests=1,
            ),
            namespace(name="nvme3ns2", read_only=True, same_as="nvme0ns1"),
        ),
        refused=(RefusedNamespace(nsid=7, reason="8 bytes of metadata; format it without"),),
    )
    never = controller(
        name="nvme4", state="connecting", model="", since_s=2.0, attempts=1, namespaces=()
    )
    closing = controller(name="nvme5", state="closing", namespaces=())

    outcome = devlist(reconnecting, by_hand, under_way, paused, never, closing)

    assert (
        outcome.out
        == """\
 nvme0: Linux (disconnected for 12 seconds)
          connect: connection refused
          attempts: 4; the next to 192.0.2.1:4420 in 3.2 seconds
    nvme0ns1 (64MB) held, 12 requests waiting, 3 writes ambiguous
 nvme1: Linux (disconnected for 1 seconds)
          closed by the peer
          attempts: 0; the next by hand: nvmecontrol reconnect nvme1
 nvme2: Linux (disconnected for 0 seconds)
          attempts: 1; the next to 192.0.2.1:4420 is under way
 nvme3: Linux (connected via TCP 192.0.2.1:4420)
    nvme3ns1 (64MB) paused, 1 request waiting
            UUID was aa, is bb; disconnect it, or bring the old one back
    nvme3ns2 (64MB) read-only, same as nvme0ns1
          NSID 7 not served: 8 bytes of metadata; format it without
 nvme4: nqn.2014-08.org.example:disk (connecting via TCP 192.0.2.1:4420 for 2 seconds)
          attempts: 1; the next to 192.0.2.1:4420 is under way
 nvme5: Linux (disconnecting from TCP 192.0.2.1:4420)
"""
    )


def test_what_is_about_to_happen_and_what_stands_in_the_way_is_said():
    lost = controller(
        state="lost",
        since_s=12.9,
        last_error="closed by the peer",
        attempts=2,
        next_attempt_s=3.25,
        fails_fast_in_s=2.06,
        gives_up_in_s=47.1,
        fences=1,
        namespaces=(
            namespace(
                state="held",
                reason="connection lost: closed by the peer",
                waiting_requests=2,
                ambiguous_writes=1,
                quarantined_ranges=1,
                unflushed_bytes=3 << 19,
            ),
        ),
    )
    failing = controller(
        name="nvme1", state="reconnecting", attempts=3, fails_fast_in_s=0.0, namespaces=()
    )
    live = controller(
        name="nvme2",
        fences=2,
        namespaces=(namespace(name="nvme2ns1", quarantined_ranges=3, unflushed_bytes=512),),
    )

    outcome = devlist(lost, failing, live)

    assert (
        outcome.out
        == """\
 nvme0: Linux (disconnected for 12 seconds)
          closed by the peer
          attempts: 2; the next to 192.0.2.1:4420 in 3.2 seconds
          waiting I/O fails in 2.1 seconds (fast I/O fail)
          disconnected, and waiting I/O lost, in 47.1 seconds (controller loss timeout); \
nvmecontrol set -l 0 nvme0 stops that
          1 earlier connection may still execute writes; see nvmecontrol paused nvme0
    nvme0ns1 (64MB) held, 2 requests waiting, 1 write ambiguous, 1 range in quarantine, \
1.5MB unflushed
            connection lost: closed by the peer
 nvme1: Linux (disconnected for 42 seconds)
          attempts: 3; the next to 192.0.2.1:4420 is under way
          I/O fails until the controller is back (fast I/O fail)
 nvme2: Linux (connected via TCP 192.0.2.1:4420)
          2 earlier connections may still execute writes; see nvmecontrol paused nvme2
    nvme2ns1 (64MB) 3 ranges in quarantine, 512B unflushed
"""
    )


def test_json_has_the_parameters_with_their_origin():
    parameters = {"ctrl_loss_tmo_s": Parameter(value=60.0, origin="given")}

    outcome = devlist(controller(parameters=parameters), arguments=["--json"])

    [shown] = outcome.json["controllers"]
    assert shown["parameters"] == {"ctrl_loss_tmo_s": {"value": 60.0, "origin": "given"}}


@pytest.mark.parametrize("state", list(ControllerState))
def test_every_state_of_a_controller_has_its_words(state):
    outcome = devlist(controller(state=state.value))

    assert outcome.code == 0
    assert outcome.out.startswith(" nvme0: Linux (")


@pytest.mark.parametrize("state", [each for each in NamespaceState if each.value != "live"])
def test_every_state_of_a_namespace_is_named(state):
    outcome = devlist(controller(namespaces=(namespace(state=state.value),)))

    assert f"    nvme0ns1 (64MB) {state.value}\n" in outcome.out


def test_no_controllers():
    outcome = devlist()

    assert (outcome.code, outcome.out, outcome.err) == (69, "No NVMe controllers found.\n", "")


def test_json_is_the_whole_answer():
    info = controller()

    outcome = devlist(info, arguments=["--json"])

    shown = outcome.json
    assert shown.pop("schema") == 1
    assert outcome.code == 0
    assert shown["controllers"][0]["namespaces"][0]["name"] == "nvme0ns1"
    assert set(attrs.asdict(info)) == set(shown["controllers"][0])


def test_json_without_controllers():
    outcome = devlist(arguments=["--json"])

    assert (outcome.code, outcome.json) == (69, {"schema": 1, "controllers": []})


def test_hostile_names_cannot_move_the_cursor():
    outcome = devlist(controller(model="a\x1b[2Jb\nc\udc80", namespaces=()))

    assert outcome.out == " nvme0: a\\x1b[2Jb\\x0ac\\x80 (connected via TCP 192.0.2.1:4420)\n"
