"""Workers that are processes of this machine."""

import json
import socket
from contextlib import ExitStack


def places(n):
    """The environment variables that tell each of n workers its place among all."""
    with ExitStack() as stack:  # All are held at once, so that their ports differ.
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    tasks = [{"type": "worker", "index": i} for i in range(n)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})}
        for task in tasks
    ]
