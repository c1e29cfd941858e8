"""One peer in its own environment: `peer.py NAME fill CHATS CONVERSATIONS` or `peer.py NAME work CHATS SECONDS`.

Its handler only counts. `work` prints as JSON how many jobs it handled and in how many seconds since the first. The
settings are those that the peer's documentation recommends for speed.
"""

# mypy: ignore-errors
# Its packages are only in .venv-bench.

import json
import os
import sys
import time
from datetime import timedelta

import uvloop

URL = os.environ["DATABASE_URL"]
PAYLOAD = "x" * 105
BULK = 1000


class Count:
    """Counts handled jobs, and ends the process when all are handled or the time is up."""

    def __init__(self, chats, seconds):
        self.chats, self.seconds, self.handled, self.first = chats, seconds, 0, 0.0

    def add(self):
        """Counts one job."""
        now = time.monotonic()
        if not self.handled:
            self.first = now
        self.handled += 1
        # The time of the first claim is not included, here as for every contender.
        if self.handled >= self.chats or now - self.first > self.seconds:
            print(json.dumps({"handled": self.handled, "seconds": now - self.first}), flush=True)
            os._exit(0)


class PgQueuer:
    """asyncpg, batches of 500, its own autovacuum settings."""

    async def driver(self):
        """A driver with its own connection."""
        import asyncpg
        from pgqueuer import AsyncpgDriver

        return AsyncpgDriver(await asyncpg.connect(URL))

    async def fill(self, chats, conversations):
        """Enqueues by its bulk call."""
        from pgqueuer import Queries

        queries = Queries(await self.driver())
        await queries.install()
        await queries.optimize_autovacuum()
        for first in range(0, chats, BULK):
            numbers = range(first, min(first + BULK, chats))
            bodies = [json.dumps({"conversation": n % conversations, "payload": PAYLOAD}).encode() for n in numbers]
            await queries.enqueue(["chat"] * len(bodies), bodies, [0] * len(bodies))

    async def work(self, count):
        """Runs one manager."""
        import pgqueuer

        manager = pgqueuer.PgQueuer(await self.driver())

        @manager.entrypoint("chat")
        async def chat(job):
            json.loads(job.payload)
            count.add()

        await manager.run(batch_size=500, dequeue_timeout=timedelta(seconds=5))


class Procrastinate:
    """One lock per conversation, which keeps its order; finished jobs are deleted; 100 at once."""

    def __init__(self):
        import procrastinate

        connector = procrastinate.PsycopgConnector(conninfo=URL, min_size=2, max_size=20)
        self.app = procrastinate.App(connector=connector)
        self.count = None

        @self.app.task(queue="chats", name="chat")
        async def chat(payload):
            self.count.add()

    async def fill(self, chats, conversations):
        """Enqueues by its bulk call."""
        from procrastinate.jobs import Job

        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()
            for first in range(0, chats, BULK):
                jobs = [
                    Job(
                        queue="chats",
                        lock=str(n % conversations),
                        queueing_lock=None,
                        task_name="chat",
                        task_kwargs={"payload": PAYLOAD},
                    )
                    for n in range(first, min(first + BULK, chats))
                ]
                await self.app.job_manager.batch_defer_jobs_async(jobs)

    async def work(self, count):
        """Runs one worker."""
        self.count = count
        async with self.app.open_async():
            await self.app.run_worker_async(
                queues=["chats"], concurrency=100, delete_jobs="always", install_signal_handlers=False
            )


async def main(name, action, chats, other):
    """Fills the queue, or works on it."""
    peer = {"pgqueuer": PgQueuer, "procrastinate": Procrastinate}[name]()
    if action == "fill":
        await peer.fill(int(chats), int(other))
    else:
        await peer.work(Count(int(chats), float(other)))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
