"""Names, numbers, sizes and lifetimes of nodes."""

import stat
from itertools import islice

import pytest

from fusedev import nodes
from fusedev.nodes import ROOT_INODE, NamespaceNode, Node, NodeTable
from tests.fusedev.fakes import EventKind, FakeHost


@pytest.fixture
def host():
    host = FakeHost()
    host.add("nvme0ns1", 1 << 20)
    return host


@pytest.fixture
def changes():
    return []


@pytest.fixture
def table(host, changes):
    table = NodeTable(changes.append)
    table.follow(host)
    return table


def names(table: NodeTable) -> list[bytes]:
    return [node.name for node in table.listed_after(0)]


def found(table: NodeTable, name: str) -> Node:
    node = table.lookup(name.encode())
    assert node is not None
    return node


def test_control_node_controllers_and_namespaces_have_names(table):
    assert names(table) == [b"nvmf", b"nvme0", b"nvme0ns1"]
    assert table.root.inode == ROOT_INODE
    assert table.get(ROOT_INODE) is table.root


def test_nodes_come_and_go_with_the_host(table, host):
    host.add("nvme1ns7", 4096)
    assert names(table) == [b"nvmf", b"nvme0", b"nvme0ns1", b"nvme1", b"nvme1ns7"]

    host.remove("nvme0ns1")
    assert names(table) == [b"nvmf", b"nvme0", b"nvme1", b"nvme1ns7"]
    assert table.lookup(b"nvme0ns1") is None


def test_an_inode_number_is_never_given_again(table, host):
    first = found(table, "nvme0ns1")
    host.remove("nvme0ns1")
    host.add("nvme0ns1", 4096)

    second = found(table, "nvme0ns1")
    assert second.inode > first.inode
    assert not second.gone


def test_a_node_that_is_gone_is_known_until_the_kernel_forgets_it(table, host):
    node = found(table, "nvme0ns1")
    node.lookups = 3
    host.remove("nvme0ns1")

    assert table.get(node.inode) is node
    assert node.gone
    assert node.attributes().links == 0
    table.forget(node.inode, 2)
    assert table.get(node.inode) is node
    table.forget(node.inode, 1)
    assert table.get(node.inode) is None


def test_a_node_that_the_kernel_never_saw_goes_at_once(table, host):
    node = found(table, "nvme0ns1")
    host.remove("nvme0ns1")

    assert table.get(node.inode) is None


def test_a_forgotten_node_that_is_there_stays(table):
    node = found(table, "nvme0ns1")
    node.lookups = 1
    table.forget(node.inode, 1)
    table.forget(12345, 1)

    assert found(table, "nvme0ns1") is node
    assert table.get(node.inode) is node


def test_being_told_twice_of_the_same_namespace_changes_nothing(table, host):
    node = found(table, "nvme0ns1")
    host.tell(EventKind.ADDED, "nvme0ns1")
    host.tell(EventKind.ADDED, "nvme0")

    assert found(table, "nvme0ns1") is node
    assert names(table) == [b"nvmf", b"nvme0", b"nvme0ns1"]


def test_another_namespace_under_the_name_is_another_node(table, host):
    node = found(table, "nvme0ns1")
    host.add("nvme0ns1", 4096)

    assert node.gone
    assert found(table, "nvme0ns1") is not node


def test_size_and_mode_follow_the_namespace(table, host, changes):
    node = found(table, "nvme0ns1")
    before = node.attributes()
    assert before.size_bytes == 1 << 20
    assert before.sectors == (1 << 20) // 512
    assert stat.S_IMODE(before.mode) == 0o600
    assert stat.S_ISREG(before.mode)

    host.find("nvme0ns1").read_only = True
    host.resize("nvme0ns1", 2 << 20)
    after = node.attributes()
    assert after.size_bytes == 2 << 20
    assert after.sectors == (2 << 20) // 512
    assert stat.S_IMODE(after.mode) == 0o400
    assert after.changed_ns >= before.changed_ns
    assert changes == ["nvme0ns1"]


def test_a_change_that_stat_does_not_show_asks_for_no_attributes(table, host, changes):
    host.tell(EventKind.CHANGED, "nvme0ns1")

    assert changes == []


def test_a_change_of_a_controller_or_of_nothing_asks_for_no_attributes(table, host, changes):
    host.tell(EventKind.CHANGED, "nvme0")
    host.tell(EventKind.CHANGED, "nvme9ns9")
    host.tell(EventKind.REMOVED, "nvme9ns9")
    host.tell(EventKind.ADDED, "nvme9ns9")

    assert changes == []


def test_programs_are_told_to_take_large_pieces(table):
    assert found(table, "nvme0ns1").attributes().block_bytes == 1 << 20


def test_listing_goes_on_after_a_number_while_nodes_come_and_go(table, host):
    host.add("nvme0ns2", 4096)
    second = list(table.listed_after(0))[1]
    host.remove("nvme0ns1")
    host.add("nvme0ns3", 4096)

    rest = [node.name for node in table.listed_after(second.inode)]
    assert rest == [b"nvme0ns2", b"nvme0ns3"]


def test_a_piece_of_a_long_listing_is_found_without_a_look_at_all_before_it(
    table, host, monkeypatch
):
    for nsid in range(2, 1001):
        host.add(f"nvme0ns{nsid}", 4096)
    looks = 0

    def counted(node: Node) -> int:
        nonlocal looks
        looks += 1
        return node.inode

    monkeypatch.setattr(nodes, "_inode_of", counted)
    seen: list[Node] = []
    pieces = 0
    while piece := list(islice(table.listed_after(seen[-1].inode if seen else 0), 20)):
        seen += piece
        pieces += 1

    assert [node.name for node in seen] == names(table)
    assert len(seen) == 1002
    assert looks <= 12 * (pieces + 2)


def test_modes_of_the_directory_the_control_node_and_controllers(table):
    assert table.root.mode == stat.S_IFDIR | 0o755
    assert table.control.mode == stat.S_IFREG | 0o600
    assert found(table, "nvme0").mode == stat.S_IFREG | 0o400
    assert isinstance(found(table, "nvme0ns1"), NamespaceNode)
