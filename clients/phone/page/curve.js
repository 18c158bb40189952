// A small curve of accuracy over the rounds.

const WIDTH = 320;
const HEIGHT = 96;
const EDGE = 6;

/** Draw the accuracies of `done` into a figure's svg; `rounds` is how many there will be. */
export function draw(svg, done, rounds) {
  const points = done.filter(({accuracy}) => accuracy !== null).map(({round, accuracy}) => [
    (WIDTH * round) / Math.max(rounds, 1), HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * accuracy,
  ]);
  const line = points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
  svg.querySelector('.curve').setAttribute('d', line);
  svg.querySelector('.area').setAttribute('d', points.length ? `${line}L${points.at(-1)[0]} ${HEIGHT}L${points[0][0]} ${HEIGHT}Z` : '');
}
