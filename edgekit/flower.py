"""The only place that touches Flower's private names. tests/test_flower.py is the contract with flwr 1.41.

Importing this module first also settles Flower's environment: no telemetry, no update check, a quiet log.
"""

import logging
import os
import uuid

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)

__all__ = ["CLIENT_RAISED", "Run", "begin_run", "give_id"]

CLIENT_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
"""Error code of a reply from a client whose training raised."""


def begin_run(run_id: int) -> Run:
    """Make this process the server of a run: Flower's messages read their sender from the process."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1
    return Run.create_empty(run_id)


def give_id(message: Message) -> str:
    """Give a message the id that the SuperLink would give it, and return it."""
    message_id = str(uuid.uuid4())
    message.metadata.__dict__["_message_id"] = message_id
    return message_id
