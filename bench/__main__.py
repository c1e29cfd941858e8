"""`python -m bench`: measures all rows, or the chosen ones, and prints the table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import delays, drains, flood, flows, history, memory, stream, web
from bench.figures import Row, table
from bench.stage import FULL, QUICK, SMOKE, Stage

# Rows of one part are measured in the same rounds.
PARTS: dict[str, Callable[[Stage], Sequence[Row]]] = {
    "drain": drains.run,
    "enqueue": flows.enqueue,
    "live": flows.live,
    "latency": delays.latency,
    "stream": stream.run,
    "http": web.run,
    "bulk": web.bulk,
    "snapshot": flows.snapshot,
    "flood": flood.run,
    "history": history.run,
    "memory": memory.run,
}


def main() -> int:
    """Runs the parts; the exit status tells only whether everything was measured, not whether aims were reached."""
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measures Shoptalk on a throwaway PostgreSQL.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="sizes", const=QUICK, help="two minutes, but coarser")
    size.add_argument("--smoke", action="store_const", dest="sizes", const=SMOKE, help="only to check that it works")
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="NAME",
        help=f"measure only this part (can be repeated): {', '.join(PARTS)}",
    )
    parser.add_argument("--no-peers", action="store_true", help="do not measure the other queues")
    parser.add_argument(
        "--json", type=Path, default=Path("bench-results.json"), metavar="FILE", help="where to write the results"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes = options.sizes or FULL
    if options.no_peers:
        sizes = dataclasses.replace(sizes, peers=False)
    rows: list[Row] = []
    failed: list[str] = []
    with Stage.open(sizes) as stage:
        conditions = stage.conditions() | {"command": " ".join(["bin/bench", *sys.argv[1:]])}
        print(", ".join(f"{name} {value}" for name, value in conditions.items()), flush=True)
        for index, name in enumerate(PARTS, 1):
            if not options.only or name in options.only:
                stage.say(f"[{index}/{len(PARTS)}] {name}")
                try:
                    rows += PARTS[name](stage)
                except Exception:
                    failed.append(name)
                    traceback.print_exc()
                result = {"conditions": conditions, "rows": [row.as_dict() for row in rows]}
                options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))
    if failed:
        print(f"not measured, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
