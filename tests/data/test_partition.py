"""Partitions give every example to exactly one client, and what each promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data import partition, partitioners
from edgekit.data.settings import Partitioner
from edgekit.errors import DataError, ExperimentError

LABELS = st.lists(st.integers(0, 4), min_size=30, max_size=200).map(lambda values: np.array(values, np.int64))


def _holds_all_once(owners, examples):
    assert sorted(np.concatenate(owners).tolist()) == list(range(examples))
    assert min(len(owner) for owner in owners) >= 1


@given(LABELS, st.integers(1, 15), st.floats(0.05, 50), st.integers(0, 2**31))
def test_dirichlet_gives_every_example_to_one_client_and_leaves_nobody_empty(labels, clients, alpha, seed):
    owners = partition.dirichlet(labels, clients, alpha, np.random.default_rng(seed))
    assert len(owners) == clients
    _holds_all_once(owners, len(labels))


@given(st.integers(20, 300), st.integers(1, 20), st.integers(0, 2**31))
def test_iid_sizes_differ_by_at_most_one(examples, clients, seed):
    owners = partition.iid(examples, clients, np.random.default_rng(seed))
    _holds_all_once(owners, examples)
    sizes = [len(owner) for owner in owners]
    assert max(sizes) - min(sizes) <= 1


def test_shards_give_each_client_about_k_labels():
    labels = np.repeat(np.arange(10), 100)
    owners = partition.shards(labels, 50, 2, np.random.default_rng(0))
    _holds_all_once(owners, 1000)
    assert all(len(np.unique(labels[owner])) <= 2 for owner in owners)


def test_a_small_alpha_gives_clients_of_fewer_classes():
    labels = np.repeat(np.arange(10), 200)
    rng = np.random.default_rng(0)
    classes = [
        np.mean([len(np.unique(labels[owner])) for owner in partition.dirichlet(labels, 20, alpha, rng)])
        for alpha in (0.05, 100.0)
    ]
    assert classes[0] < 5
    assert classes[1] > 9


def test_natural_makes_one_client_a_group():
    owners = partition.natural(np.array(["b", "a", "b", "c"]))
    assert [owner.tolist() for owner in owners] == [[1], [0, 2], [3]]


@given(LABELS, st.integers(1, 10), st.integers(0, 2**31))
def test_hold_out_keeps_the_mix_of_classes_and_the_exact_number(labels, number, seed):
    kept, held = partition.hold_out(labels, number, np.random.default_rng(seed))
    assert len(held) == number
    _holds_all_once([kept, held], len(labels))
    for label in np.unique(labels):
        share = number * np.mean(labels == label)
        assert abs(np.count_nonzero(labels[held] == label) - share) <= 1


@pytest.mark.parametrize("make", [partition.iid, lambda n, c, r: partition.dirichlet(np.zeros(n, int), c, 1.0, r)])
def test_fewer_examples_than_clients_is_an_error_that_says_how_many_would_do(make):
    with pytest.raises(DataError, match=r"set data\.clients to at most 5"):
        make(5, 6, np.random.default_rng(0))


@given(st.lists(st.sampled_from("abcde"), min_size=5, max_size=60), st.integers(0, 2**31))
def test_whole_owners_are_held_out(owners, seed):
    groups = np.array(owners)
    try:
        kept, held = partition.hold_out_groups(groups, 0.3, np.random.default_rng(seed))
    except DataError:  # the last owner is reached only if the others have less than the share
        assert any(len(owners) - owners.count(owner) < 0.3 * len(owners) for owner in set(owners))
        return
    _holds_all_once([kept, held], len(groups))
    assert not set(groups[kept]) & set(groups[held])
    assert len(held) >= 0.3 * len(groups)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("IidPartitioner", {}),
        ("PathologicalPartitioner", {"num_classes_per_partition": 2}),
        ("DirichletPartitioner", {"alpha": 0.5, "min_partition_size": 1}),
        ("ExponentialPartitioner", {}),
        ("NaturalIdPartitioner", {}),
    ],
)
def test_partitioners_of_flwr_datasets_share_as_they_do_by_themselves(name, arguments):
    import datasets
    from flwr_datasets import partitioner as theirs

    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 5, 200), rng.choice(["ann", "bo", "cy"], 200)
    settings = Partitioner(name=name, arguments=arguments)
    owners = partitioners.owners(labels, groups, 5, settings, seed=7)
    _holds_all_once(owners, 200)
    natural = name == "NaturalIdPartitioner"
    clients = {} if natural else {"num_partitions": 5}
    by = {"partition_by": "group" if natural else "label"} if name[0] in "PDN" else {}
    own = getattr(theirs, name)(**clients, **by, **arguments, **({"seed": 7} if name[0] in "PD" else {}))
    own.dataset = datasets.Dataset.from_dict({"label": labels, "group": groups, "place": np.arange(200)})
    for number, owner in enumerate(owners):
        assert sorted(own.load_partition(number)["place"]) == owner.tolist()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "PathologicalPartitoner",
            {},
            "no partitioner 'PathologicalPartitoner'; did you mean 'PathologicalPartitioner'",
        ),
        ("VerticalEvenPartitioner", {}, "no partitioner"),
        ("PathologicalPartitioner", {}, "num_classes_per_partition"),
        ("PathologicalPartitioner", {"num_classes_per_partition": 99}, "PathologicalPartitioner"),
        ("SizePartitioner", {"partition_sizes": [200, 0]}, "greater than zero"),
        ("NaturalIdPartitioner", {}, "needs an owner"),
    ],
)
def test_a_partitioner_that_cannot_is_one_line(name, arguments, message):
    with pytest.raises(ExperimentError, match=message) as error:
        partitioners.owners(np.arange(200) % 5, None, 5, Partitioner(name=name, arguments=arguments), seed=0)
    assert "\n" not in str(error.value)
