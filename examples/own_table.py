"""A table of one's own, in Python: train, look, predict. Run it from the project's folder."""

import pandas

import edgekit as ek

frame = pandas.read_csv("examples/machines.csv")
known, new = frame[:800], frame[800:]
run = ek.run(
    {"data": {"partition": "natural", "table": {"label": "fault", "group": "site", "drop": ["serial"]}}},
    data=known,
    model="mlp",
    federation={"rounds": 20},
    training={"learning_rate": 0.1},
)
print(f"test accuracy {run.accuracy:.3f}, on the newest machines {run.evaluate(new)['accuracy']:.3f}")
for row in run.predict(new.drop(columns="fault")[:3], top=2).rows:
    print(row)
