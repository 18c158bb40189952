"""Clients as Ray's actors, on a cluster of two nodes, real but for the machine that they share."""

import os

import pytest

from edgekit.errors import EdgekitError, ExperimentError
from edgekit.server.engines import ray as engine

MIXER = ("model.name=mixer", "data.clients=7", "federation.rounds=2", "federation.algorithm=scaffold")
STEP = ("training.learning_rate=0.05",)
pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, to which this process is joined."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    quiet = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={**quiet, "include_dashboard": False})
    made.add_node(**quiet)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of three clients."""
    monkeypatch.setattr("edgekit.server.engines.shards.SHARD", 3)


@pytest.mark.long
def test_machines_that_do_not_see_the_runs_folder_are_refused_where_clients_keep_something(
    cluster, coordinate, make_experiment, small_shards, monkeypatch
):
    keys = ("federation.engine=ray", f"federation.ray_address={cluster.address}")
    made = coordinate(make_experiment(*MIXER, *STEP, *keys))
    monkeypatch.setattr(engine, "_marked", lambda place: "another")
    with pytest.raises(ExperimentError, match=r"a worker does not see the run's folder .*: share it"):
        made.run()
    monkeypatch.setattr(engine, "versions", lambda: {"torch": "1.0"})
    with pytest.raises(ExperimentError, match=r"a worker has torch .*, here 1.0: install the same"):
        made.run()


@pytest.mark.long
def test_a_cluster_gives_the_same_bits_though_a_node_is_killed_in_mid_round(
    cluster, coordinate, make_experiment, small_shards, monkeypatch
):
    alone = coordinate(make_experiment(*MIXER, *STEP), "alone").run()
    keys = ("federation.engine=ray", f"federation.ray_address={cluster.address}")
    whole = coordinate(make_experiment(*MIXER, *STEP, *keys), "whole")
    assert whole.engine.trainer.endswith("; 2 Ray actors")
    assert _bits(whole.run()) == _bits(alone)
    (worker,) = cluster.worker_nodes
    said = []
    killed = coordinate(make_experiment(*MIXER, *STEP, *keys), "killed", on_notice=said.append)
    parcel = engine.opened

    def opened(one):  # of the first shard that is done
        if cluster.worker_nodes:
            cluster.remove_node(worker, allow_graceful=False)
        return parcel(one)

    monkeypatch.setattr(engine, "opened", opened)
    assert _bits(killed.run()) == _bits(alone)
    assert any("a Ray actor was lost" in line and line.endswith("its shard is done again") for line in said)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:1", r"'127.0.0.1:1' does not answer"),
        ("here", r"HOST:PORT was expected, or 'auto'"),
        ("127.0.0.1:99999", "does not answer"),
        ("127.0.0.1:x", "HOST:PORT was expected"),
    ],
)
def test_a_cluster_that_does_not_answer_is_refused_before_training(address, problem, coordinate, make_experiment):
    with pytest.raises(EdgekitError, match=problem):
        coordinate(make_experiment("federation.engine=ray", f"federation.ray_address={address}"))


def test_an_address_belongs_to_ray(make_experiment):
    with pytest.raises(EdgekitError, match="ray_address is of engine = 'ray'"):
        make_experiment("federation.ray_address=127.0.0.1:6379")


def _bits(outcome):
    return {name: array.tobytes() for name, array in outcome.weights.items()}
