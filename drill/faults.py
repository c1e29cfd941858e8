"""The faults: each function breaks something, and returns how to undo it if the fault lasts."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import psycopg

from drill.crew import Crew
from drill.load import Load
from drill.shop import Shop

Undo = Callable[[], None]


@dataclass(frozen=True)
class Scene:
    """The things to break."""

    shop: Shop
    crew: Crew
    load: Load


def kill_worker(scene: Scene, chance: random.Random) -> None:
    """kill -9 of one worker."""
    scene.crew.kill(chance.choice(scene.crew.workers))


def kill_all_workers(scene: Scene, chance: random.Random) -> None:
    """kill -9 of all workers at once."""
    for name in scene.crew.workers:
        scene.crew.kill(name)


def kill_web(scene: Scene, chance: random.Random) -> None:
    """kill -9 of web with all its processes."""
    scene.crew.kill("web")


def kill_web_process(scene: Scene, chance: random.Random) -> None:
    """kill -9 of one of the processes of web's master."""
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        chance.choice(psutil.Process(scene.crew.pid("web")).children()).kill()


def stop_worker(scene: Scene, chance: random.Random) -> Undo:
    """SIGSTOP of one worker, later SIGCONT."""
    process = scene.crew.suspend(chance.choice(scene.crew.workers))
    return lambda: scene.crew.resume(process)


def stop_web(scene: Scene, chance: random.Random) -> Undo:
    """SIGSTOP of web, later SIGCONT."""
    process = scene.crew.suspend("web")
    return lambda: scene.crew.resume(process)


def terminate_backends(scene: Scene, chance: random.Random) -> None:
    """pg_terminate_backend() of some sessions, both of the product and of the drill."""
    with scene.shop.connect("drill fault") as session:
        session.execute(
            "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where pid <> pg_backend_pid()"
            " and application_name ~ '^(shoptalk|drill (producer|reader|meddler))' order by random() limit %s) chosen",
            [chance.randint(1, 8)],
        )


def restart_fast(scene: Scene, chance: random.Random) -> None:
    """A fast shutdown of PostgreSQL, and a start."""
    scene.shop.restart(immediate=False)


def restart_at_once(scene: Scene, chance: random.Random) -> None:
    """An immediate shutdown of PostgreSQL, and a start, which recovers from the WAL."""
    scene.shop.restart(immediate=True)


def lock_queue_rows(scene: Scene, chance: random.Random) -> Undo:
    """Row locks on some rows of chat_queue; the sender is kept out for a moment so that there are some."""
    return _hold(
        scene,
        "begin",
        "select pg_advisory_lock_shared(sender_lock())",
        "select pg_sleep(0.3)",
        "with chosen as (select ctid from chat_queue order by random() limit 8)"
        " select from chat_queue where ctid in (select ctid from chosen) for update skip locked",
        "select pg_advisory_unlock_shared(sender_lock())",
    )


def lock_conversations(scene: Scene, chance: random.Random) -> Undo:
    """Row locks on some conversations, so that their producers wait."""
    return _hold(
        scene, "begin", "select from conversations where conversation_id % 7 = 3 limit 3 for update skip locked"
    )


def hold_sender_lock(scene: Scene, chance: random.Random) -> Undo:
    """The sender's lock, held by another session."""
    return _hold(scene, "select pg_advisory_lock_shared(sender_lock())")


def old_snapshot(scene: Scene, chance: random.Random) -> Undo:
    """A repeatable-read transaction that stays open."""
    return _hold(scene, "begin isolation level repeatable read", "select count(*) from chats")


def drop_notifies(scene: Scene, chance: random.Random) -> Undo:
    """Every NOTIFY is lost."""
    return _switch(scene, "no-notify")


def fill_disk(scene: Scene, chance: random.Random) -> Undo:
    """Every write of a chat raises the error of a full disk."""
    return _switch(scene, "disk-full")


def burst(scene: Scene, chance: random.Random) -> Undo:
    """All producers run at full speed."""
    return _pace(scene, "burst")


def lull(scene: Scene, chance: random.Random) -> Undo:
    """The producers nearly stop, so that the workers become idle."""
    return _pace(scene, "lull")


def _hold(scene: Scene, *statements: str) -> Undo:
    """Runs the statements in a session that is closed when the fault ends."""
    session = scene.shop.connect("drill fault")
    try:
        for statement in ("set lock_timeout = '3s'", *statements):
            session.execute(statement.encode())
    except psycopg.Error:
        session.close()
        raise
    return session.close


def _switch(scene: Scene, name: str) -> Undo:
    switch = scene.shop.switch_on(name)
    return lambda: scene.shop.switch_off(switch)


def _pace(scene: Scene, pace: str) -> Undo:
    scene.load.pace = pace

    def undo() -> None:
        scene.load.pace = "steady"

    return undo
