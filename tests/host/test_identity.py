"""The host's NQN and Host ID: where they come from, and that they stay a pair."""

import concurrent.futures
import multiprocessing
import uuid
from pathlib import Path

import pytest

from nvmf_host.identity import HostIdentity, default_state_dir, resolve
from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import ConnectData
from nvmf_transport.nqn import check_nqn, uuid_nqn

ID = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")
OTHER = uuid.UUID("87654321-9abc-4def-8123-456789abcdef")
PLAIN = "nqn.2020-01.com.example:host1"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "etc").mkdir()
    return {"etc_dir": tmp_path / "etc", "state_dir": tmp_path / "state" / "nvmf"}


def store(folder: Path, nqn: str | None = None, hostid: object | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if nqn is not None:
        (folder / "hostnqn").write_text(f"{nqn}\n")
    if hostid is not None:
        (folder / "hostid").write_text(f"{hostid}\n")


def pair(identity: HostIdentity) -> tuple[str, uuid.UUID]:
    return identity.nqn, identity.hostid


def test_what_is_given_wins(folders):
    store(folders["etc_dir"], uuid_nqn(OTHER), OTHER)
    identity = resolve(PLAIN, str(ID), **folders)

    assert pair(identity) == (PLAIN, ID)
    assert (identity.nqn_origin, identity.hostid_origin) == ("given", "given")
    assert not folders["state_dir"].exists()


def test_the_stored_pair(folders):
    store(folders["etc_dir"], PLAIN, ID)
    store(folders["state_dir"], uuid_nqn(OTHER), OTHER)
    identity = resolve(**folders)

    assert pair(identity) == (PLAIN, ID)
    assert identity.nqn_origin == str(folders["etc_dir"] / "hostnqn")
    assert identity.hostid_origin == str(folders["etc_dir"] / "hostid")


def test_the_folder_of_our_own_comes_last(folders):
    store(folders["state_dir"], PLAIN, ID)

    assert pair(resolve(**folders)) == (PLAIN, ID)


def test_a_stored_nqn_alone_is_completed(folders):
    store(folders["etc_dir"], uuid_nqn(ID))
    identity = resolve(**folders)

    assert pair(identity) == (uuid_nqn(ID), ID)
    assert identity.hostid_origin == "derived from the NQN"


def test_a_stored_hostid_alone_is_completed(folders):
    store(folders["etc_dir"], hostid=ID)
    identity = resolve(**folders)

    assert pair(identity) == (uuid_nqn(ID), ID)
    assert identity.nqn_origin == "derived from the Host ID"
    assert identity.hostid_origin == str(folders["etc_dir"] / "hostid")


def test_a_uuid_nqn_brings_its_own_hostid(folders):
    store(folders["etc_dir"], uuid_nqn(OTHER), OTHER)

    assert pair(resolve(uuid_nqn(ID), **folders)) == (uuid_nqn(ID), ID)


def test_another_nqn_never_gets_the_stored_hostid(folders):
    store(folders["etc_dir"], uuid_nqn(OTHER), OTHER)
    first, second = resolve(PLAIN, **folders), resolve(PLAIN + "x", **folders)

    assert len({first.hostid, second.hostid, OTHER}) == 3
    assert resolve(PLAIN, **folders) == first
    assert first.hostid_origin == "derived from the NQN"


def test_a_derived_hostid_is_the_same_in_every_release(folders):
    assert resolve(PLAIN, **folders).hostid == uuid.UUID("c9e53730-c0e3-5e23-9cde-2ddceab1ea28")


def test_the_stored_nqn_brings_the_stored_hostid(folders):
    store(folders["etc_dir"], PLAIN, ID)

    assert pair(resolve(PLAIN, **folders)) == (PLAIN, ID)


def test_the_stored_hostid_brings_the_stored_nqn(folders):
    store(folders["etc_dir"], PLAIN, ID)

    assert pair(resolve(hostid=ID, **folders)) == (PLAIN, ID)


def test_another_hostid_makes_its_own_nqn(folders):
    store(folders["etc_dir"], PLAIN, ID)

    assert pair(resolve(hostid=str(OTHER), **folders)) == (uuid_nqn(OTHER), OTHER)


def test_a_stored_hostid_under_another_nqn_is_refused(folders):
    store(folders["etc_dir"], PLAIN, ID)
    with pytest.raises(ConfigError, match=f"belongs to {PLAIN}") as caught:
        resolve(PLAIN + "x", ID, **folders)

    assert (caught.value.field, caught.value.value) == ("hostid", str(ID))


def test_the_pair_is_made_once(folders):
    made = resolve(**folders)

    assert made.nqn == uuid_nqn(made.hostid)
    assert check_nqn(made.nqn, "hostnqn")
    assert resolve(**folders) == made
    assert [path.name for path in folders["state_dir"].iterdir()] == ["hostnqn"]


def _resolve_in_process(etc_dir: Path, state_dir: Path) -> HostIdentity:
    return resolve(etc_dir=etc_dir, state_dir=state_dir)


def test_concurrent_starts_agree(folders):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as pool:
        started = [pool.submit(_resolve_in_process, *folders.values()) for _ in range(12)]
        found = {pair(each.result()) for each in started}

    assert len(found) == 1
    assert [path.name for path in folders["state_dir"].iterdir()] == ["hostnqn"]


def test_one_who_comes_second_takes_what_the_first_made(folders, monkeypatch):
    """The other start makes its file after this one has looked."""
    make_folder = Path.mkdir

    def mkdir(path: Path, *args: object, **options: object) -> None:
        monkeypatch.setattr(Path, "mkdir", make_folder)
        store(folders["state_dir"], uuid_nqn(ID))

    monkeypatch.setattr(Path, "mkdir", mkdir)

    assert pair(resolve(**folders)) == (uuid_nqn(ID), ID)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hostnqn", b""),
        ("hostnqn", b"\n\n"),
        ("hostnqn", b"nqn.a\nnqn.b\n"),
        ("hostnqn", b"\xff\xfe\n"),
        ("hostnqn", b"n" * 224),
        ("hostnqn", b"n" * 100_000),
        ("hostnqn", b"a\0b\n"),
        ("hostid", b""),
        ("hostid", b"not-a-uuid\n"),
        ("hostid", b"{12345678-9abc-4def-8123-456789abcdef}\n"),
        ("hostid", b"00000000-0000-0000-0000-000000000000\n"),
    ],
)
def test_a_malformed_file_is_named(folders, name, content):
    (folders["etc_dir"] / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        resolve(**folders)

    assert caught.value.field == name
    assert str(caught.value).startswith(f"{folders['etc_dir'] / name}: ")


def test_a_malformed_file_does_not_matter_where_the_identity_is_given(folders):
    (folders["etc_dir"] / "hostnqn").write_bytes(b"")

    assert pair(resolve(PLAIN, ID, **folders)) == (PLAIN, ID)
    assert pair(resolve(uuid_nqn(ID), **folders)) == (uuid_nqn(ID), ID)


def test_a_file_that_cannot_be_read_is_named(folders):
    (folders["etc_dir"] / "hostid").mkdir()
    with pytest.raises(ConfigError, match="hostid: Is a directory; make it readable, or give both"):
        resolve(**folders)


def test_a_folder_that_cannot_be_made_is_named(folders):
    folders["state_dir"].parent.write_text("in the way")
    with pytest.raises(
        ConfigError, match=r"cannot keep a host NQN in .*; make that folder"
    ) as caught:
        resolve(**folders)

    assert caught.value.value == str(folders["state_dir"])


@pytest.mark.parametrize(
    ("hostnqn", "hostid", "field"),
    [
        ("", None, "hostnqn"),
        ("n" * 224, ID, "hostnqn"),
        (None, "", "hostid"),
        (None, "x", "hostid"),
        (PLAIN, ID.hex, "hostid"),
        (PLAIN, f"urn:uuid:{ID}", "hostid"),
        (PLAIN, uuid.UUID(int=0), "hostid"),
    ],
)
def test_a_malformed_option_is_named(folders, hostnqn, hostid, field):
    with pytest.raises(ConfigError) as caught:
        resolve(hostnqn, hostid, **folders)

    assert caught.value.field == field


def test_spaces_around_a_line_do_not_matter(folders):
    (folders["etc_dir"] / "hostnqn").write_bytes(f" {PLAIN} \r\n\n".encode())

    assert resolve(**folders).nqn == PLAIN


def test_hostid_bytes_are_in_the_order_of_the_text():
    assert ConnectData(hostid=ID.bytes).pack()[:16].hex() == ID.hex


def test_the_default_folder(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state_dir() == Path("/var/lib/nvmf")

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_state_dir() == Path("/x/nvmf")

    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_state_dir() == Path("/home/u/.local/state/nvmf")
