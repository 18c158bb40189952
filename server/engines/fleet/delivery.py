"""What nodes are sent beside rounds: models to take into use, and questions after their inputs."""

import time
from collections.abc import Callable

from edgekit import wire
from edgekit.arrays import Weights, to_bytes
from edgekit.clients.node.delivery import Delivery
from edgekit.errors import EdgekitError
from edgekit.server.engines.fleet.drift import DriftWatch
from edgekit.server.engines.fleet.exchange import Exchange
from edgekit.server.engines.fleet.nodes import model_of
from edgekit.server.engines.fleet.presence import Presence
from edgekit.server.engines.fleet.tasks import Tasks


def deliver(
    delivery: Delivery,
    exchange: Exchange,
    presence: Presence,
    sign: Callable[[bytes], bytes],
    on_notice: Callable[[str], None],
    network: str | None = None,
) -> tuple[int, int]:
    """Send a model to all nodes that are there and have an older one; return (took it, were asked).

    Args:
        delivery: the model.
        exchange: to ask nodes.
        presence: of the nodes.
        sign: signs what nodes shall trust.
        on_notice: called with a line for people.
        network: of the nodes that train this one alone; None is of all.
    """
    wanted = {"run": delivery.run, "version": delivery.version}
    asked = [
        node
        for node in exchange.online()
        if node in presence.ready
        and presence.nodes[node].model != wanted
        and not presence.rests(node)
        and (network is None or presence.nodes[node].network == network)
    ]
    if not asked:
        return 0, 0
    content = delivery.to_bytes()
    question = wire.Message({"action": "deliver", "signature": sign(content)}, content)
    took = 0
    for node, found in exchange.ask(asked, question):
        state = presence.state(node)
        if isinstance(found, EdgekitError) or found.get("problem"):
            problem = wire.one_line(found if isinstance(found, EdgekitError) else found["problem"])
            presence.stumbled(node)
            on_notice(f"{state.name} keeps its old model: {problem}")
        else:
            state.model, state.last_seen = model_of(found), time.time()
            took += 1
    presence.save()
    return took, len(asked)


def watch(
    number: int,
    weights: Weights,
    noise: float,
    exchange: Exchange,
    presence: Presence,
    tasks: Tasks,
    drift: DriftWatch,
    on_notice: Callable[[str], None],
) -> None:
    """Ask nodes that share them for noised statistics of their inputs, and look for drift."""
    asked = [node for node in exchange.online() if node in presence.ready and presence.nodes[node].statistics]
    sums = []
    content = to_bytes(weights)
    for kind in sorted({presence.nodes[node].kind for node in asked}):
        name, _ = tasks.of(kind)
        facts = {"action": "statistics", "noise": noise, "task": name}
        chosen = [node for node in asked if presence.nodes[node].kind == kind]
        for node, found in exchange.ask(chosen, wire.Message(facts, content)):
            if isinstance(found, EdgekitError):
                on_notice(f"{presence.state(node).name} gave no statistics: {wire.one_line(found)}")
            else:
                sums.append(found.get("sum"))
    drift.add(number, sums, noise)
