"""Throwaway RabbitMQ: our own nodes with Debian's programs, on free ports, as root or any other account."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pika
import pika.exceptions

from drill.shop import free_port

READY_SECONDS = 240
LIBRARY = Path("/usr/lib/rabbitmq/bin")  # the wrappers in /usr/sbin require one particular account and folder


def program() -> Path | None:
    """The path of rabbitmq-server; None if it is not installed."""
    if (LIBRARY / "rabbitmq-server").exists():
        return LIBRARY / "rabbitmq-server"
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


class Node:
    """One node, created by `Rabbit`."""

    def __init__(self, number: int, folder: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.name = f"shoptalk{number}@localhost"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.folder = folder / f"node{number}"
        self.folder.mkdir(parents=True)
        self._environment = environment | {
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, nodes: list[Node]) -> None:
        """Writes the node's settings, for a single node or a cluster."""
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "vm_memory_high_watermark.absolute = 512MB",
                 "disk_free_limit.absolute = 50MB", "log.file.level = warning"]  # fmt: skip
        if len(nodes) > 1:
            lines += ["cluster_formation.peer_discovery_backend = classic_config",
                      "cluster_formation.randomized_startup_delay_range.min = 0",
                      "cluster_formation.randomized_startup_delay_range.max = 1"]  # fmt: skip
            lines += [f"cluster_formation.classic_config.nodes.{n} = {node.name}" for n, node in enumerate(nodes, 1)]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "plugins").write_text("[].\n")

    def launch(self) -> None:
        """Starts the node without waiting for it."""
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [str(program())], cwd=self.folder, env=self._environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def await_ready(self) -> None:
        """Waits until the node accepts connections."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except (OSError, pika.exceptions.AMQPError):
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "output").read_text()[-2000:]) from None
                time.sleep(0.2)

    def start(self) -> None:
        """Starts the node and waits until it is ready."""
        self.launch()
        self.await_ready()

    def connect(self, **options: Any) -> pika.BlockingConnection:
        """A connection by pika, independent of our own code. Raises OSError and pika.exceptions.AMQPError."""
        socket.create_connection(("127.0.0.1", self.port)).close()  # pika leaks a socket if the port is closed
        parameters = pika.URLParameters(self.url)
        parameters.socket_timeout = parameters.blocked_connection_timeout = 30
        for name, value in options.items():
            setattr(parameters, name, value)
        return pika.BlockingConnection(parameters)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Kills the node's whole process group."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, how)
            except ProcessLookupError:
                pass  # it has already ended
            self._process.wait()
            self._process = None


class Rabbit:
    """One node or a cluster, with its own epmd and cookie; a context manager."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        self._names_port = free_port()
        self._environment = {
            "HOME": str(folder),
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
            "RUNNING_UNDER_SYSTEMD": "1",  # the script then execs the node instead of starting a child
        }
        self.nodes = [Node(number, folder, self._environment) for number in range(1, nodes + 1)]
        for node in self.nodes:
            node.configure(self.nodes)

    def __enter__(self) -> Rabbit:
        self._names = subprocess.Popen(
            ["epmd", "-port", str(self._names_port), "-address", "127.0.0.1"],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        self._names.kill()
        self._names.wait()

    @property
    def urls(self) -> str:
        """The value of AMQP_URL."""
        return ",".join(node.url for node in self.nodes)
