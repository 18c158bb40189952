"""A teacher's part of the loss, beside the paper's equation in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compression.attention import Watched, attending, mapped
from edgekit.compression.distil import distilled
from edgekit.errors import ModelError
from edgekit.objectives import make
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.section import Chosen


def _softmax(scores):
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@pytest.mark.parametrize("answers", [1, 2])
def test_the_loss_is_hintons(answers):
    torch.manual_seed(0)
    teacher = nn.Linear(4, 3)
    objective = distilled(PLAIN, teacher, temperature=2.5, share=0.6)
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    scores = torch.randn(7, answers, 3) if answers > 1 else torch.randn(7, 3)
    wanted = _softmax(teacher(x).detach().numpy().astype(np.float64) / 2.5)
    last = scores[:, -1] if answers > 1 else scores
    own = _softmax(last.numpy().astype(np.float64) / 2.5)
    divergence = (wanted * np.log(wanted / own)).sum(1)
    plain = PLAIN.each(scores, y, x).numpy()
    np.testing.assert_allclose(objective.each(scores, y, x).numpy(), 0.4 * plain + 0.6 * 6.25 * divergence, rtol=1e-5)
    objective.check_apart(scores, y, x)
    assert objective.measure == PLAIN.measure
    assert objective.chosen == PLAIN.chosen
    assert PLAIN.each(scores, y, x).tolist() == plain.tolist()  # the plain one stays as it was


def test_the_teacher_learns_nothing():
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.randn(5, 4)
    distilled(PLAIN, teacher, 3.0, 0.5).each(student(x), torch.zeros(5, dtype=torch.int64), x).sum().backward()
    assert teacher.weight.grad is None
    assert student.weight.grad is not None


def test_numbers_have_no_teacher():
    with pytest.raises(ModelError, match="has none"):
        distilled(make(Chosen(name="regression")), nn.Linear(4, 1), 3.0, 0.5)


def test_maps_are_zagoruykos():
    """Equation 2, with the squared distance of the authors' own program; a teacher's larger map is averaged down."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 3))
    student = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2 * 16, 3)
    )
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    layer, size = mapped(student, x[:1])
    other, larger = mapped(teacher, x[:1])
    assert (layer, size, other, larger) == ("2", (4, 4), "1", (8, 8))
    plain, inside = student(x), student[:3](x).detach().numpy().astype(np.float64)
    attending(student, layer)
    assert torch.equal(student.eval()(x), plain)
    objective = distilled(PLAIN, teacher, 3.0, 0.5, 8.0, Watched(teacher, other, size))
    theirs = teacher[:2](x).detach().numpy().astype(np.float64)
    maps = [(inside**2).mean(1), (theirs**2).mean(1).reshape(6, 4, 2, 4, 2).mean((2, 4))]
    maps = [one.reshape(6, -1) / np.linalg.norm(one.reshape(6, -1), axis=1, keepdims=True) for one in maps]
    wanted = 8.0 / 2 * ((maps[0] - maps[1]) ** 2).sum(1)
    scores = student.train()(x)
    assert scores.shape == (6, 3 + 16)
    answers = distilled(PLAIN, teacher, 3.0, 0.5).each(plain, y, x)
    found = (objective.each(scores, y, x) - answers).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    objective.check_apart(scores, y, x)
    assert torch.equal(objective.each(plain, y, x), answers)  # in use there are no maps


def test_a_network_without_maps_is_told():
    with pytest.raises(ModelError, match="features = 0"):
        mapped(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))
