"""The living supervisor's ear: one abstract socket per run on which `guardian stop` is heard.

Only processes of the same user (or root) are listened to; the kernel says who speaks (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from guardian.core.wire import supervisor_socket_name

if TYPE_CHECKING:
    from collections.abc import Callable

STOP = b"stop\n"
HEARD = b"heard\n"
ANSWER_MAX_S = 5.0
UCRED = struct.Struct("3i")


class Ear:
    """Listens for the life of a supervisor; `post` is called in the listening thread for each stop request."""

    def __init__(self, uid: int, run: str, post: Callable[[], None]) -> None:
        """Raises OSError (EADDRINUSE) while another supervisor of the run lives."""
        self._post = post
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(supervisor_socket_name(uid, run))
            self._socket.listen(8)
        except OSError:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # The thread holds the socket until it has left accept(2): only then is the address free.
        self._thread.join(ANSWER_MAX_S)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.settimeout(ANSWER_MAX_S)
                if peer_uid(peer) in (os.getuid(), 0) and peer.recv(len(STOP)) == STOP:
                    self._post()
                    peer.sendall(HEARD)


def peer_uid(peer: socket.socket) -> int:
    """The user of the process at the other end."""
    _, uid, _ = UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return int(uid)


def lives(uid: int, run: str) -> bool:
    """Whether a supervisor of the run is alive to hear us."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(ANSWER_MAX_S)
        try:
            asking.connect(supervisor_socket_name(uid, run))
        except OSError:
            return False
        return True


def ask_stop(uid: int, run: str) -> bool:
    """Ask the run's supervisor to stop it; False where none is alive to hear it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(ANSWER_MAX_S)
        try:
            asking.connect(supervisor_socket_name(uid, run))
            asking.sendall(STOP)
            return asking.recv(len(HEARD)) == HEARD
        except OSError:
            return False
