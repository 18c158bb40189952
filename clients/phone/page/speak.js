// Spoken words: a short recording, and its log-mel features, as edgekit/data/audio.py makes them.

const MORE_SECONDS = 0.9; // around the word
const LEAST_LEVEL = 0.003;

/** The microphone may not be used, or nothing was heard. */
export class SpeakError extends Error {}

/**
 * Record a word.
 * @returns {Promise<Float32Array>} its loudest stretch, at the settings' sample rate
 */
export async function record(settings, level = () => {}) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1, echoCancellation: false, noiseSuppression: false}});
  } catch {
    throw new SpeakError('permission');
  }
  const context = new AudioContext();
  try {
    const meter = context.createAnalyser();
    context.createMediaStreamSource(stream).connect(meter);
    const watching = setInterval(() => {
      const part = new Float32Array(meter.fftSize);
      meter.getFloatTimeDomainData(part);
      level(Math.min(1, 4 * Math.max(...part.map(Math.abs))));
    }, 60);
    const recorder = new MediaRecorder(stream);
    const parts = [];
    recorder.ondataavailable = ({data}) => parts.push(data);
    const ended = new Promise((resolve) => { recorder.onstop = resolve; });
    recorder.start();
    await new Promise((resolve) => setTimeout(resolve, 1000 * (settings.seconds + MORE_SECONDS)));
    recorder.stop();
    await ended;
    clearInterval(watching);
    const whole = await context.decodeAudioData(await new Blob(parts, {type: recorder.mimeType}).arrayBuffer());
    const samples = await resampled(whole, settings.sample_rate);
    const word = loudest(samples, Math.round(settings.seconds * settings.sample_rate));
    if (Math.max(...word.map(Math.abs)) < LEAST_LEVEL) throw new SpeakError('silent');
    return word;
  } finally {
    for (const track of stream.getTracks()) track.stop();
    context.close();
  }
}

async function resampled(sound, rate) {
  const offline = new OfflineAudioContext(1, Math.ceil(sound.duration * rate), rate);
  const source = offline.createBufferSource();
  source.buffer = sound;
  source.connect(offline.destination);
  source.start();
  return (await offline.startRendering()).getChannelData(0);
}

/** Return the stretch of so many samples that has the most energy. */
export function loudest(samples, length) {
  if (samples.length <= length) return samples;
  let energy = 0;
  for (let i = 0; i < length; i++) energy += samples[i] ** 2;
  let [best, start] = [energy, 0];
  for (let i = length; i < samples.length; i++) {
    energy += samples[i] ** 2 - samples[i - length] ** 2;
    if (energy > best) [best, start] = [energy, i - length + 1];
  }
  return samples.slice(start, start + length);
}

/** Return log-mel features of a recording, (1, bands, frames), scaled to about 0..1. */
export function logMel(samples, {sample_rate: rate, seconds, mel_bands: bands, window_ms: windowMs, hop_ms: hopMs}) {
  const window = Math.round((rate * windowMs) / 1000);
  const hop = Math.round((rate * hopMs) / 1000);
  const length = Math.max(Math.round(rate * seconds), window);
  const padded = new Float32Array(length);
  padded.set(samples.subarray(0, length));
  const frames = Math.floor((length - window) / hop) + 1;
  const hann = Float64Array.from({length: window}, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (window - 1)));
  const filters = melFilters(bands, window, rate);
  const features = new Float32Array(bands * frames);
  const bins = (window >> 1) + 1;
  for (let frame = 0; frame < frames; frame++) {
    const part = Float64Array.from(hann, (weight, i) => weight * padded[frame * hop + i]);
    const power = spectrum(part).map((value) => value / (window / 4) ** 2);
    for (let band = 0; band < bands; band++) {
      let energy = 0;
      for (let bin = 0; bin < bins; bin++) energy += power[bin] * filters[band * bins + bin];
      features[band * frames + frame] = Math.min(1.5, Math.max(0, (10 * Math.log10(Math.max(energy, 1e-8))) / 80 + 1));
    }
  }
  return features;
}

/** Triangular filters with peaks evenly spaced on the mel scale (O'Shaughnessy 1987), (bands, window / 2 + 1). */
function melFilters(bands, window, rate) {
  const top = 2595 * Math.log10(1 + rate / 2 / 700);
  const edges = Array.from({length: bands + 2}, (_, i) =>
    Math.floor(((window + 1) * (700 * (10 ** ((top * i) / (bands + 1) / 2595) - 1))) / rate));
  const bins = (window >> 1) + 1;
  const filters = new Float64Array(bands * bins);
  for (let band = 0; band < bands; band++) {
    const [low, peak, high] = edges.slice(band, band + 3);
    for (let bin = low; bin < Math.min(high, bins); bin++) {
      filters[band * bins + bin] = bin < peak ? (bin - low) / Math.max(peak - low, 1) : (high - bin) / Math.max(high - peak, 1);
    }
  }
  return filters;
}

/** The power spectrum of real samples: a fast transform for powers of two, a plain one else. */
function spectrum(samples) {
  const n = samples.length;
  const bins = (n >> 1) + 1;
  const power = new Float64Array(bins);
  if (n & (n - 1)) {
    for (let bin = 0; bin < bins; bin++) {
      let [re, im] = [0, 0];
      for (let i = 0; i < n; i++) {
        const angle = (2 * Math.PI * ((bin * i) % n)) / n;
        re += samples[i] * Math.cos(angle);
        im -= samples[i] * Math.sin(angle);
      }
      power[bin] = re * re + im * im;
    }
    return power;
  }
  const [re, im] = [Float64Array.from(samples), new Float64Array(n)];
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j]] = [re[j], re[i]];
  }
  for (let size = 2; size <= n; size <<= 1) {
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < size / 2; k++) {
        const angle = (-2 * Math.PI * k) / size;
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        const [a, b] = [start + k, start + k + size / 2];
        const [x, y] = [re[b] * c - im[b] * s, re[b] * s + im[b] * c];
        [re[b], im[b]] = [re[a] - x, im[a] - y];
        [re[a], im[a]] = [re[a] + x, im[a] + y];
      }
    }
  }
  for (let bin = 0; bin < bins; bin++) power[bin] = re[bin] ** 2 + im[bin] ** 2;
  return power;
}
