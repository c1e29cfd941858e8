"""`python -m drill`: runs one drill; the exit status is 0 only if every chat is accounted for."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from drill.account import Figures
from drill.drill import Drill
from drill.plants import PLANTS, Plant, PlantError, plant
from drill.shop import Shop
from embedded.programs import EmbeddedServerError


def drill(folder: Path, options: argparse.Namespace) -> Figures:
    """One machine, on which everything is killed."""
    fault = PLANTS.get(options.plant, Plant())
    with Shop(folder) as shop:
        plant(shop, fault)
        return Drill(shop, options.seconds, options.seed, fault).run()


def soak(folder: Path, options: argparse.Namespace) -> Figures:
    """A long run at half the measured limit. Only here are the libraries for the plot imported."""
    from drill.soak import Soak

    with Shop(folder) as shop:
        return Soak(shop, options.seconds, options.seed, options.soak).run()


def drill_cluster(folder: Path, options: argparse.Namespace) -> Figures:
    """Many web nodes on RabbitMQ. Only here are its libraries imported."""
    from drill import cluster, rabbit

    if rabbit.program() is None:
        raise EmbeddedServerError("--cluster needs rabbitmq-server")
    return cluster.run(folder, options.seconds, options.seed)


def main() -> int:
    """Reads the options, creates the throwaway folder, and runs the drill."""
    parser = argparse.ArgumentParser(prog="bin/drill", description=sys.modules["drill"].__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for how long to inject faults (default: 60)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="decides the faults and the load"
    )
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), help="a fault in the product itself, which the drill must catch"
    )
    parser.add_argument("--cluster", action="store_true", help="many web nodes on a RabbitMQ cluster instead")
    parser.add_argument(
        "--soak", type=Path, metavar="PLOT", help="run at half the measured limit, with kills, and draw a plot (.svg)"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {options.seed}, {options.seconds:g} s, planted: {options.plant or 'nothing'}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="shoptalk-drill-"))
    folder.chmod(0o755)  # the server's account must be able to enter
    clean = False
    try:
        run = drill_cluster if options.cluster else soak if options.soak else drill
        wrong = run(folder, options)
        clean = not any(wrong.values())
    except (EmbeddedServerError, PlantError) as error:
        print(f"drill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if clean:
            shutil.rmtree(folder)
        else:
            print(f"kept for inspection: {folder}", flush=True)
    print("clean" if clean else "NOT CLEAN", flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
