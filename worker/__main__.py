"""`python -m worker render` and `python -m worker assemble`: a worker for chunks of that kind, until SIGTERM."""

import argparse
import os

from momalisa.tables import ChunkKind
from worker.tasks import app


def main() -> None:
    """Be a Celery worker with one child, whose name is told by kind, process and host."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("kind", choices=[kind.value for kind in ChunkKind], help="what it works on")
    kind = parser.parse_args().kind
    app.worker_main(
        [
            *("worker", "--queues", kind, "--hostname", f"{kind}-{os.getpid()}@%h"),
            *("--pool", "prefork", "--concurrency", "1"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
    )


if __name__ == "__main__":
    main()
