"""A torch module and arrays, as they are in memory: train them federated, and deliver a checked .tflite."""

import numpy as np
import torch
from sklearn.datasets import load_digits

import edgekit as ek

images, labels = load_digits(return_X_y=True)
x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
net = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(16 * 64, 10),
)
run = ek.run(
    {"data": {"clients": 10}},
    model=net,
    data=(x, labels),
    federation={"rounds": 20, "algorithm": "scaffold"},
    training={"learning_rate": 0.1},
)
print(f"accuracy {run.accuracy:.3f}; files: {', '.join(path.name for path in run.path.glob('export/*.tflite'))}")
print(ek.open(run.path, model=net, data=(x, labels)).evaluate()["by_class"]["8"])
