"""Which learning rate, over two seeds: a sweep of processes, and its runs compared on a page."""

import edgekit as ek

found = ek.sweep(
    "examples/machines.toml",
    {"training.learning_rate": [0.03, 0.1], "seed": range(2)},
    workers=2,
    out="runs/rates",
    federation={"rounds": 10},
    export={"presets": []},
    spiking={"enabled": False},
)
for setting in found:
    print(setting.settings, f"{setting.mean:.3f} +- {setting.deviation:.3f}")
ek.compare("runs/rates", html="runs/rates.html")
