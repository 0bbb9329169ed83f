"""The state of a worker, in one object."""

from uuid import UUID

from worker.process.crash import CrashReporter
from worker.process.health import Health
from worker.process.heartbeat import Heartbeat
from worker.process.monitor import Monitor
from worker.process.shutdown import Shutdown
from worker.process.startup import Startup
from worker.process.watchdog import Watchdog


class Worker:
    """A worker: the parent process, and the child that Celery forks from it and replaces when it ends.

    It is created once, in the parent before the first fork, because its processes share memory and a pipe.
    """

    def __init__(self) -> None:
        # Shared by the parent and its successive children.
        self.shutdown = Shutdown()
        self.startup = Startup()
        self.health = Health()
        self.crashes = CrashReporter(self.health)
        # The parent receives, the child sends.
        self.monitor = Monitor(self.shutdown, self.startup, self.health)
        # Separate in each child, unused in the parent.
        self.heartbeat = Heartbeat()
        self.watchdog = Watchdog()
        self.failed_walks: set[UUID] = set()
        """Walks that failed in this process since its last success."""
