"""The embedded cluster: a real single-node Kubernetes on this machine, from package registries only.

python tests/cluster up        see README.md beside this file
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import build
import cluster
from instance import API_ONLY, FULL, MOST_NODES
from log import Log
from shell import ClusterError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python tests/cluster", description=(__doc__ or "").splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    starts = commands.add_parser("up", help="build what is missing, start everything, wait until it is ready")
    stops = commands.add_parser("down", help="stop everything and undo every change; keeps the cache")
    shows = commands.add_parser("status", help="show what runs; status 0 only if all of it is healthy")
    for command in (starts, stops, shows):
        command.add_argument("--api-only", action="store_true", help="the bare API server instead of the full cluster")
    loads = commands.add_parser("load-image", help="import image archives into the full cluster")
    starts.add_argument(
        "--nodes",
        type=int,
        choices=range(1, MOST_NODES + 1),
        help="how many nodes of the full cluster there are to be; without it, those that there are",
    )
    loads.add_argument("--node", default="", metavar="NAME", help="a further node instead of the first one")
    loads.add_argument("tars", nargs="+", type=Path, metavar="TAR")
    builds = commands.add_parser("build", help="make everything in the cache, start nothing")
    builds.add_argument("--only", nargs="+", metavar="NAME", help="these of: " + ", ".join(build.components()))
    for command in (starts, builds):
        command.add_argument("--without-sglang", action="store_true", help="leave out the image of the real SGLang")
    return top


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Carry out the command; returns the exit status."""
    instance = API_ONLY if getattr(arguments, "api_only", False) else FULL
    if arguments.command == "up":
        cluster.up(instance, log, sglang=not arguments.without_sglang, nodes=arguments.nodes)
    elif arguments.command == "down":
        cluster.down(instance, log)
    elif arguments.command == "load-image":
        cluster.load_images(instance, arguments.tars, log, arguments.node)
    elif arguments.command == "build" and arguments.only:
        build.build(arguments.only, log)
    elif arguments.command == "build":
        cluster.build_all(log, sglang=not arguments.without_sglang)
    else:
        return 0 if cluster.status(instance) else 1
    return 0


def main() -> int:
    """Run the program; an error that the user can act on is one message on standard error."""
    log = Log()
    try:
        return run(parser().parse_args(), log)
    except ClusterError as error:
        log.info(f"ERROR: {error}")
        return 1
    except BrokenPipeError:  # whoever read the output, like `head`, has seen enough
        sys.stdout = None
        return 1
    except KeyboardInterrupt:
        log.info("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
