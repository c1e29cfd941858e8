"""`python -m bench`: measures every row, or those asked for, and prints the table."""

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

# What belongs together is measured in the same rounds: each part gives one row or some.
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
    """Runs the parts; the exit status says nothing of aims, only whether all was measured."""
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measures Shoptalk on a throwaway PostgreSQL.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="sizes", const=QUICK, help="two minutes, coarser")
    size.add_argument("--smoke", action="store_const", dest="sizes", const=SMOKE, help="only to see that it works")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--no-peers", action="store_true", help="leave the other queues out")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), metavar="FILE")
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
        for place, name in enumerate(PARTS, 1):
            if not options.only or name in options.only:
                stage.say(f"[{place}/{len(PARTS)}] {name}")
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
