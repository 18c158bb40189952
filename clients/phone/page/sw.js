// Keeps the page for being offline: what comes from the gateway is used when it is there, the kept copy else.

const NAME = 'edgekit-page';
const FILES = [
  './', 'style.css', 'app.js', 'asking.js', 'examples.js', 'keeping.js', 'leaving.js', 'part.js', 'sent.js', 'show.js', 'state.js', 'trying.js', 'words.js',
  'strings.js', 'store.js', 'line.js', 'frames.js', 'makers.js', 'draw.js', 'speak.js', 'move.js',
  'practice.js', 'curve.js', 'worker.js', 'fitting.js', 'trainer.js', 'random.js', 'ledger.js', 'pld.js', 'augment.js', 'practice-digits.bin', 'practice-gestures.bin', 'icon.svg', 'manifest.webmanifest',
  'litert/core.js', 'litert/wasm-utils.js',
];

self.addEventListener('install', (event) => {
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const {request} = event;
  if (request.method !== 'GET' || !new URL(request.url).pathname.startsWith('/phone/')) return;
  event.respondWith((async () => {
    const cache = await caches.open(NAME);
    try {
      const response = await fetch(request);
      if (response.ok) cache.put(request, response.clone());
      return response;
    } catch (error) {
      const kept = await cache.match(request, {ignoreSearch: true});
      if (kept) return kept;
      throw error;
    }
  })());
});
