"""The node as a Flower ClientApp, for Flower's stock `flower-supernode`: the same answers, a process a message."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from edgekit import logs
from edgekit.clients.node.folder import NodeFolder
from edgekit.clients.node.handler import Handler
from edgekit.errors import JoinError

app = ClientApp()


def _answer(message: Message, context: Context) -> Message:
    folder = context.node_config.get("folder")
    if not folder:
        raise JoinError(
            "start flower-supernode with --node-config 'folder=\"…\"', as edgekit join --supernode shows it"
        )
    logs.begin()
    node = NodeFolder(Path(str(folder)))
    with node.only_one(wait=True):  # messages may come side by side, and there is one budget
        return Handler(node, lasting=False).answer(message)


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Answer a round."""
    return _answer(message, context)


@app.query()  # type: ignore[untyped-decorator]
def query(message: Message, context: Context) -> Message:
    """Answer a question."""
    return _answer(message, context)
