"""`python -m worker render` or `python -m worker assemble`: run a worker for one kind of chunk, until SIGTERM.

Where several GPUs are visible, it runs a render worker on each.
"""

import argparse
import os
import sys

from celery.bin.celery import celery

from momalisa.domain.states import ChunkKind
from momalisa.local import gpus
from worker.process import fleet, startup


def main() -> int:
    """Run a Celery worker with one child, named after kind, process id and host; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("kind", choices=[kind.value for kind in ChunkKind], help="kind of chunk to work on")
    kind = ChunkKind(parser.parse_args().kind)
    try:
        if kind == ChunkKind.RENDER and len(devices := gpus.visible()) > 1:
            return fleet.run(devices)
        from momalisa.queue.celery_app import queue_name  # noqa: PLC0415
        from worker.tasks import app, worker  # noqa: PLC0415 - Celery would show a traceback of invalid settings
    except Exception as error:  # noqa: BLE001 - any error is explained
        return startup.refuse(startup.explain(error))
    try:
        celery(
            [
                "--quiet",  # no banner: every line of a log is JSON
                *("--app", "worker.tasks"),
                *("--broker", app.conf.broker_url),  # else Celery would parse BROKER_URL itself
                "worker",
                *("--queues", queue_name(kind), "--hostname", f"{kind}-{os.getpid()}@%h"),
                *("--pool", "prefork", "--concurrency", "1"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ]
        )
    except SystemExit as end:
        return worker.startup.exit_code(end.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
