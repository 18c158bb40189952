"""A closer look at a network's answers: how far its chances can be believed, what it gets wrong, what it looked at."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Array
from edgekit.data import FederatedDataset
from edgekit.data.columns import readable
from edgekit.data.settings import Column
from edgekit.objectives.cross_entropy import chances_of
from edgekit.objectives.figures import calibration
from edgekit.report.drawing import FAINT, FIRST, INK, SECOND, as_svg, figures, new_figure, titled
from edgekit.report.pictures import grid_of_images

if TYPE_CHECKING:
    from torch import nn

SHOWN_WRONG, SHOWN_COLUMNS = 8, 12


def looked(dataset: FederatedDataset, scores: Array, model: "nn.Module") -> dict[str, Any]:
    """Return pictures of a network of classes as SVG, by name, and `rows` of a table that it gets wrong; {} of others.

    Args:
        dataset: whose test examples were scored.
        scores: of the network for them, (examples, outputs).
        model: the network.
    """
    test = dataset.test
    if not dataset.objective.of_classes or len(scores) != len(test) or len(test) == 0:
        return {}
    labels = test.y if test.y.ndim == 1 else test.y.argmax(1)
    scores = np.asarray(dataset.objective.answer(scores))
    chances, names = chances_of(scores), dataset.classes
    drawn: dict[str, Any] = {"calibration": reliability(calibration(chances, labels))}
    answers = chances.argmax(1)
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-chances[wrong].max(1), kind="stable")]
    few = wrong[:SHOWN_WRONG]
    columns = [Column.model_validate(one) for one in dataset.normalisation.get("columns", [])]
    if columns and len(few):
        drawn["rows"] = {
            "headings": [column.name for column in columns],
            "rows": [
                (names[labels[i]], names[answers[i]], f"{chances[i].max():.2f}", readable(columns, test.x[i]))
                for i in few
            ],
        }
    elif len(few):
        titles = [f"{names[labels[i]]}, said {names[answers[i]]}" for i in few]
        drawn["wrong"] = grid_of_images([test.x[i] for i in few], titles, "Wrong examples of the test set")
    one = int(wrong[0]) if len(wrong) else 0
    share = contributions(model, test.x[one], int(answers[one]))
    if share is not None:
        told = f"{names[labels[one]]}" + (f", said {names[answers[one]]}" if len(wrong) else "")
        headings = dataset.normalisation.get("headings")
        drawn["saliency"] = saliency(test.x[one], share, told, headings)
    return drawn


def contributions(model: "nn.Module", x: Array, answer: int) -> Array | None:
    """Return what each value of an example adds to the answer's score, to first order: gradient times input.

    Shrikumar et al. 2017, section 2. None where the network has no gradient at this example.

    Args:
        model: the network.
        x: one example.
        answer: the class.
    """
    import torch

    from edgekit.objectives import objective_of

    given = torch.from_numpy(np.array(x[None])).requires_grad_()
    try:
        with torch.enable_grad():
            score = objective_of(model).answer(model.eval()(given))[0, answer]
            (gradient,) = torch.autograd.grad(score, given)
    except RuntimeError:  # tokens, spikes
        return None
    found: Array = (gradient * given.detach())[0].numpy()
    return found if np.isfinite(found).all() and np.abs(found).max() > 0 else None


def reliability(found: Mapping[str, Any]) -> str:
    """Draw the share that is right against the chance that the network gave, by bins (Guo et al. 2017, figure 1)."""
    figure, axis = new_figure(5.0, 4.2)
    axis.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (2, 3)))
    sure = [one["confidence"] for one in found["bins"]]
    right = [one["accuracy"] for one in found["bins"]]
    sizes = np.array([one["examples"] for one in found["bins"]], np.float64)
    axis.vlines(sure, right, sure, color=SECOND, lw=1.5)
    axis.scatter(sure, right, s=20 + 130 * sizes / sizes.max(), color=FIRST, linewidth=0)
    axis.set_xlim(0, 1.04)
    axis.set_ylim(0, 1.04)
    axis.set_xlabel("chance that it gives")
    axis.set_ylabel("share that is right")
    titled(axis, f"Are its chances true? Error {found['ece']:.3f}")
    return as_svg(figure, "Calibration")


def saliency(x: Array, share: Array, told: str, headings: Sequence[str] | None) -> str:
    """Draw what an answer was based on: of images beside the image, of numbers as bars, the largest first.

    Args:
        x: the example.
        share: what each value adds to the answer's score.
        told: of the example.
        headings: names of the numbers.
    """
    if x.ndim >= 3:
        size = np.abs(share)
        while size.ndim > 3:
            size = size.sum(0)
        size = size.sum(0, keepdims=True) if len(size) == 3 else size
        return grid_of_images([x, size], [told, "looked at"], "What one answer looked at")
    figure, axis = new_figure(5.0, 4.2)
    flat = share.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[:SHOWN_COLUMNS]
    names = [headings[i] if headings and len(headings) == len(flat) else str(int(i)) for i in order]
    axis.barh(range(len(order)), flat[order], color=[FIRST if flat[i] > 0 else SECOND for i in order], height=0.7)
    axis.set_yticks(range(len(order)), [name if len(name) < 25 else f"{name[:23]}…" for name in names])
    axis.invert_yaxis()
    axis.axvline(0, color=FAINT, lw=1)
    axis.set_xlabel("adds to the answer's score")
    titled(axis, f"What one answer was based on: {told}")
    return as_svg(figure, "What one answer was based on")


def loss(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw the test loss by round, "" where none was measured."""
    measured = {line["round"]: line["loss"] for line in rounds if line.get("loss") is not None}
    if not measured:
        return ""
    figure, axis = new_figure(5.0, 2.9)
    axis.plot(list(measured), list(measured.values()), color=SECOND, lw=2)
    axis.set_ylim(0, None)
    axis.set_xlabel("round")
    titled(axis, "Test loss of the global model")
    return as_svg(figure, "Loss by round")


def spent(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw the seconds of each round, and the bytes that were sent up to then."""
    figure, (above, below) = figures(5.0, 2.9, 2)
    number = [line["round"] for line in rounds]
    above.plot(number, [line["seconds"] for line in rounds], color=FIRST, lw=1.5)
    above.set_ylim(0, None)
    titled(above, "Seconds a round, and megabytes sent in all")
    sent = np.cumsum([line["bytes_up"] + line["bytes_down"] for line in rounds]) / 1e6
    below.plot(number, sent, color=SECOND, lw=1.5)
    below.set_ylim(0, None)
    below.set_xlabel("round")
    return as_svg(figure, "Time and bytes by round")
