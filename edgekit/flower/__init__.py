"""The only package that touches Flower's private names. tests/test_flower.py is the contract with flwr 1.41.

Importing this module first also settles Flower's environment: no telemetry, no update check, a quiet log.
"""

import logging
import os
import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Array, ArrayRecord
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SType
from flwr.supercore.task_identity import TaskIdentity

from edgekit.arrays import Weights

logging.getLogger("flwr").setLevel(logging.ERROR)

__all__ = [
    "CLIENT_DECLINED",
    "CLIENT_RAISED",
    "NODE_LACKS_TASK",
    "NODE_NOT_ALIGNED",
    "InProcessArray",
    "begin_any_run",
    "begin_run",
    "to_record",
]

CLIENT_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""Error code of a reply from a client whose training raised."""
CLIENT_DECLINED = int(ErrorCode.MOD_FAILED_PRECONDITION)
"""Error code of a reply from a client whose owner does not want it to train now."""
NODE_LACKS_TASK, NODE_NOT_ALIGNED = 10_001, 10_002
"""Error codes of edgekit's own, beyond Flower's: a node that must be given the task again, or aligned with the other
parties again."""


def begin_run(run_id: int) -> None:
    """Make this process the server of a run: Flower's messages read their sender from the process."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1


def begin_any_run() -> None:
    """Make this process the server of a run of its own, unless Flower has made it that of another."""
    if TaskIdentity._run_id is None:
        begin_run(secrets.randbits(62))


class InProcessArray(Array):
    """An array of a message that does not leave this process: its bytes are made only when somebody asks for them.

    Flower's own array is always serialised, which takes longer than the local training of a small network.

    Args:
        ndarray: the array; it is not copied here, but each `numpy()` gives a copy, as Flower's does.
    """

    def __init__(self, ndarray: NDArray[Any]) -> None:
        self.__dict__.update(dtype=str(ndarray.dtype), shape=ndarray.shape, stype=SType.NUMPY, _held=ndarray)

    def numpy(self) -> NDArray[Any]:
        """Return a copy of the array."""
        held: NDArray[Any] = self.__dict__["_held"]
        return np.array(held)

    @property
    def data(self) -> bytes:
        """The array's bytes, in Flower's own form."""
        if "_bytes" not in self.__dict__:
            self.__dict__["_bytes"] = Array(self.__dict__["_held"]).data
        content: bytes = self.__dict__["_bytes"]
        return content


def to_record(arrays: Weights) -> ArrayRecord:
    """Return arrays as a record of a message within this process."""
    record = ArrayRecord()  # filled one by one: its constructor would serialise each array
    for name, array in arrays.items():
        record[name] = InProcessArray(array)
    return record
