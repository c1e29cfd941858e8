"""A TCP proxy that a test can cut: at once, after so many bytes, or for as long as it likes."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes on what comes to `port`, until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.connections = 0  # ever made
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._open = True
        self._left: int | None = None  # bytes towards the target until it cuts
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after_bytes: int = 0) -> None:
        """Cuts all connections, now or once so many more bytes have gone to the target."""
        with self._lock:
            self._left = after_bytes or None
        if not after_bytes:
            self._cut()

    def shut(self) -> None:
        """Cuts them and takes no more, until open()."""
        self._open = False
        self._cut()

    def open(self) -> None:
        """Takes connections again."""
        self._open = True

    def close(self) -> None:
        """Ends it."""
        self.shut()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    assert self._open
                    far = socket.create_connection(self._target)
                except (OSError, AssertionError):
                    near.close()
                    continue
                with self._lock:
                    self._pairs.add((near, far))
                self.connections += 1
                threading.Thread(target=self._pass_on, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1024):
                if outward and self._is_over(len(data)):
                    self._cut()
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_over(self, size: int) -> bool:
        with self._lock:
            if self._left is None:
                return False
            self._left -= size
            if self._left > 0:
                return False
            self._left = None
            return True

    def _cut(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
