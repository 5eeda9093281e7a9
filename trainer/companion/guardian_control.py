"""What guardian asks of the training through the control file, which is written by rename.

In the syntax of Python 3.8, on the standard library; a failure here never reaches the job.
"""

import json
import os


class Orders:
    """The control file as it was last read."""

    def __init__(self, path):
        self.path = path
        self.seen = None
        self.orders = {}

    def renewed(self):
        """Whether the file has changed and is read again; what cannot be read is raised once, and not read again."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self.seen:
            return False
        self.seen = seen
        with open(self.path, "rb") as file:
            orders = json.loads(file.read())
        if not isinstance(orders, dict):
            raise TypeError("the control file holds no object")
        self.orders = orders
        return True

    @property
    def identity(self):
        return self.orders.get("id")

    @property
    def save_at(self):
        """The optimizer step after which to save."""
        return self.orders.get("save_at")

    @property
    def stop(self):
        """Whether to stop once it is saved."""
        return self.orders.get("stop")
