"""Sockets: bound early, listening late, conflicts named."""

from __future__ import annotations

import os
import socket

import pytest
from despina.frontends.cli.listening import BadAddress, PortTaken, bind_door
from despina.frontends.cli.socket_access import SocketAccess, ids_of, socket_mode, socket_owner


def test_port_zero_is_a_free_port_and_nobody_gets_in_before_listen():
    """Goal: the place shows the real port; connecting fails until `listen`."""
    door = bind_door("HTTP", "127.0.0.1", 0)
    try:
        host, _, port = door.place.rpartition(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)), timeout=1)
        door.listen()
        socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
    finally:
        door.close()


def test_taken_port_is_named():
    """Goal: the protocol's words for a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"^Socket '127.0.0.1:{port}' already in use $"):
            bind_door("HTTP", "127.0.0.1", port)


def test_two_servers_that_bind_at_the_same_time():
    """Goal: the slower one learns of the quicker one when it listens."""
    one = bind_door("HTTP", "127.0.0.1", 0)
    try:
        two = bind_door("HTTP", "127.0.0.1", one.sockets[0].getsockname()[1])
        try:
            one.listen()
            with pytest.raises(PortTaken):
                two.listen()
        finally:
            two.close()
    finally:
        one.close()


def test_shared_port():
    """Goal: with reuse both listen."""
    one = bind_door("HTTP", "127.0.0.1", 0, reuse_port=True)
    two = bind_door("HTTP", "127.0.0.1", one.sockets[0].getsockname()[1], reuse_port=True)
    one.listen()
    two.listen()
    one.close()
    two.close()


@pytest.mark.parametrize("address", ["no.such.host.invalid", "203.0.113.7", "a" * 300])
def test_bad_addresses(address):
    """Goal: an address that is not this machine's, or none, is named."""
    with pytest.raises(BadAddress):
        bind_door("HTTP", address, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_ipv6(address):
    """Goal: IPv6 with and without brackets; the place has them."""
    try:
        door = bind_door("HTTP", address, 0)
    except BadAddress:
        pytest.skip("this machine has no ::1")
    assert door.place.startswith("[::1]:")
    door.close()


def test_unix_socket_comes_and_goes(socket_folder):
    """Goal: the file appears, lets clients in once listening, and goes with the door."""
    path = socket_folder / "http.sock"
    door = bind_door("HTTP", f"unix:{path}", 8000)
    assert door.place == f"unix:{path}"
    door.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    door.close()
    assert not path.exists()


def test_unix_socket_left_behind_is_replaced_and_a_live_one_is_not(socket_folder):
    """Goal: a file of a killed server is no obstacle; a server that listens, and another kind of file, are."""
    path = socket_folder / "http.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    door = bind_door("HTTP", f"unix:{path}", 0)
    door.listen()
    with pytest.raises(PortTaken, match=f"^Socket 'unix:{path}' already in use $"):
        bind_door("HTTP", f"unix:{path}", 0)
    door.close()
    path.write_text("kept")
    with pytest.raises(BadAddress, match="no socket"):
        bind_door("HTTP", f"unix:{path}", 0)
    assert path.read_text() == "kept"


def test_unix_socket_of_a_successor_stays(socket_folder):
    """Goal: a door that closes removes only its own file."""
    path = socket_folder / "http.sock"
    door = bind_door("HTTP", f"unix:{path}", 0)
    path.unlink()
    successor = bind_door("HTTP", f"unix:{path}", 0)
    door.close()
    assert path.exists()
    successor.close()


def test_abstract_unix_socket():
    """Goal: a name that begins with @ needs no file."""
    door = bind_door("GRPC", f"unix:@despina-{os.getpid()}", 0)
    assert door.place == f"unix:@despina-{os.getpid()}"
    door.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0despina-{os.getpid()}")
    door.close()


@pytest.mark.parametrize("path", ["", "/no/such/folder/x.sock", "/" + "x" * 200, "a\0b"])
def test_bad_unix_paths(path):
    """Goal: a path that cannot be is named."""
    with pytest.raises(BadAddress, match=r"cannot listen at .unix:"):
        bind_door("HTTP", f"unix:{path}", 0)


def test_mode_and_owner_of_a_unix_socket(socket_folder, monkeypatch):
    """Goal: the file is its owner's and has the mode that was asked for, whatever the umask, before anybody can
    connect; without the options the umask decides. A real chown where the test may, else to what it has already."""
    path = socket_folder / "door"
    user, group = (12345, 23456) if os.getuid() == 0 else (os.getuid(), os.getgid())
    old = os.umask(0o077)
    try:
        plain = bind_door("HTTP", f"unix:{path}", 0)
        assert path.stat().st_mode & 0o777 == 0o700
        plain.close()
        access = SocketAccess("0660", f"{user}:{group}")
        door = bind_door("HTTP", f"unix:{path}", 0, access=access)
    finally:
        os.umask(old)
    found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o660, user, group)
    door.close()
    assert not path.exists()
    assert bind_door("HTTP", f"unix:@despina-test-{os.getpid()}", 0, access=access).own_path is None

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(BadAddress, match=r"cannot give 'unix:.*door' its owner and mode: Operation not permitted"):
        bind_door("HTTP", f"unix:{path}", 0, access=access)
    assert not path.exists()


@pytest.mark.parametrize(
    ("owner", "ids"), [("root", (0, -1)), (":root", (-1, 0)), ("root:0", (0, 0)), ("12:34", (12, 34)), ("7:", (7, -1))]
)
def test_owners(owner, ids):
    """Goal: names and numbers; what is not named stays as it is."""
    assert ids_of(socket_owner(owner)) == ids


@pytest.mark.parametrize("text", ["", ":", "nobody-has-this-name", "root:nobody-has-this-name", "-1"])
def test_owners_that_nobody_is(text):
    """Goal: refused when the command line is read."""
    with pytest.raises(ValueError, match=r"owner|no such user or group"):
        socket_owner(text)


@pytest.mark.parametrize("text", ["", "9", "888", "u=rw", "66", "04755", "10660"])
def test_bad_modes(text):
    """Goal: three octal digits, or none."""
    with pytest.raises(ValueError, match="three octal digits"):
        socket_mode(text)
