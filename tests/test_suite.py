"""The suite itself: its tests are shared out as tests/conftest.py says, whatever pytest and pytest-xdist make of it."""

import os

import pytest


def test_a_files_tests_stay_with_one_worker(request):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("not run in workers")
    assert request.node.nodeid.endswith("@test_suite.py")
