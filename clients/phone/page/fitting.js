// Which of the examples on this phone are of a task: an earlier one may have had other shapes and classes.

/** Return the examples that a task can learn from. */
export function fitting(examples, {shape, classes}) {
  const size = shape.reduce((product, n) => product * n, 1);
  return examples.filter(({x, label}) => x.length === size && x.every(Number.isFinite) && classes.includes(label));
}
