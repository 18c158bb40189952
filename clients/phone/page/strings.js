// Every word that people read, in one file.

const size = (bytes) => (bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

export const TEXT = {
  // Headings and buttons.
  staysTitle: 'Stays here',
  leavesTitle: 'Leaves the phone',
  privacyTitle: 'Privacy',
  costTitle: 'Data',
  consent: 'Take part',
  watch: 'Just watch',
  learnTitle: 'Learning together',
  start: 'Start learning',
  pause: 'Pause',
  practise: 'Use practice examples instead',
  forgetLast: 'Remove the last one',
  tryTitle: 'Try it',
  guessClass: 'Guess',
  guessBefore: 'Before the round',
  guessNow: 'Now',
  sentTitle: 'What left this phone',
  sentAll: 'The newest first',
  goingTitle: 'Leaving',
  goingText: 'You can close this page at any time: your examples and your progress stay on this phone, and it goes on when you come back.',
  leave: 'Leave the group',
  deleteAll: 'Delete everything',
  dashboard: 'How the group is doing',
  licences: 'Licences',
  no: 'Keep',
  clear: 'Clear',
  keep: 'Keep this one',
  guess: 'Guess',
  record: 'Record',
  recording: 'Recording …',
  again: 'Try again',
  reload: 'Reload',

  // The line.
  connecting: 'connecting',
  here: 'connected',
  away: 'offline',
  ended: 'ended',

  // What it is about.
  aboutTitle: (run) => `Help to learn “${run}”`,
  what: {
    draw: (classes) => `Phones here learn together to read what a finger draws: ${classes}.`,
    speak: (classes) => `Phones here learn together to understand short words: ${classes}.`,
    move: (classes) => `Phones here learn together to tell movements apart: ${classes}.`,
  },
  stays: {
    draw: 'Your drawings. They are never sent.',
    speak: 'Your recordings. They are never sent.',
    move: 'Your movements. They are never sent.',
  },
  leaves: (counts) => `What the network learnt from them: a list of numbers, once a round${counts ? ', with how many examples you have and how well the network knew them' : ''}. Also which kind of phone and browser this is. The page lists whatever it sends.`,
  protected: (limit) => `This phone adds noise to what it sends, so that nobody, not even whoever runs the group, can tell whether any one of your examples was there. How much that protection is used up is counted (epsilon); at ${limit.toFixed(1)} this phone stops.`,
  cost: (bytes) => `About ${size(2 * bytes)} a round, there and back.`,
  noTask: 'The group is still being set up. This page goes on by itself as soon as it knows what is to be learnt.',

  // Making examples.
  makeTitle: {draw: 'Your drawings', speak: 'Your recordings', move: 'Your movements'},
  make: {
    draw: (label) => `Draw a ${label}. With a keyboard: arrows move the pen, space puts it down and lifts it.`,
    speak: (label) => `Press Record and say “${label}”.`,
    move: (label) => `Press Record and make the movement “${label}”, for two seconds.`,
  },
  pad: 'Drawing pad',
  have: (count, least) => (count < least ? `${count} of ${least} you need to start` : `${count} examples on this phone`),
  practising: (count) => `${count} practice examples: they came with this page and are nobody's secret.`,
  noPractice: 'There are no practice examples for this. You can watch without taking part.',

  // States.
  stateMake: (least) => `First make ${least} examples, or take practice examples.`,
  stateOffline: 'Offline: the group cannot be reached now. This page tries again by itself; nothing is lost.',
  stateReady: 'Ready. Press Start learning.',
  stateWaiting: 'Waiting for the next round. You can leave this page open.',
  stateLoading: 'Getting ready to learn …',
  stateTraining: (round) => `Learning, round ${round} …`,
  stateSent: (round) => `Round ${round}: sent what was learnt.`,
  statePaused: 'Paused. Your phone does not learn now.',
  stateWatching: 'You are watching. Your phone learns nothing and sends nothing.',
  stateFinished: (accuracy) => `Finished: the group's network is right ${percent(accuracy)} of the time. Try it below, it works offline too.`,
  stateFailed: (problem) => `This round did not work: ${problem}`,
  curve: (accuracy, round, rounds) => `The group's network is right ${percent(accuracy)} of the time, after round ${round} of ${rounds}.`,
  spent: (epsilon, limit) => `Privacy spent: epsilon ${epsilon.toFixed(2)} of at most ${limit.toFixed(2)}. Beyond that this phone stops.`,

  // Trying.
  try: {
    draw: 'Draw something and see what the network makes of it, before and after each round.',
    speak: 'Say something and see what the network makes of it, before and after each round.',
    move: 'Move the phone and see what the network makes of it, before and after each round.',
  },
  tryFirst: 'The network comes with the first round.',
  guessed: (label) => `The network sees: ${label}`,

  // What was sent.
  sentSum: (count, bytes) => `${count} messages, ${size(bytes)} in all. None of them holds an example.`,
  sent: {
    hello: 'Said hello',
    ready: 'Said that this phone is ready',
    pause: 'Said that this phone pauses',
    update: (facts) => `Sent what was learnt in round ${facts.round}`,
    declined: 'Said that it does not learn now',
    failed: 'Said that a round did not work',
    delivered: 'Said that the finished network arrived',
    want: 'Asked what is to be learnt',
    leave: 'Said goodbye',
  },
  size,

  // Leaving.
  sureLeave: 'Leave the group? It forgets this phone. Your examples stay here.',
  yesLeave: 'Leave',
  sureDelete: 'Delete all examples, the record of spent privacy, and this phone\'s place in the group? This cannot be undone.',
  yesDelete: 'Delete',

  // The dashboard.
  board: {
    round: 'Round',
    accuracy: 'Accuracy',
    epsilon: 'Privacy spent (epsilon)',
    here: 'Devices here',
    accuracyOver: 'Accuracy over the rounds',
    whoIsHere: 'Who is here',
    kind: 'Kind',
    count: 'Devices',
    lastRounds: 'The last rounds',
    replies: 'Updates',
    seconds: 'Seconds',
    takePart: 'The page for phones',
    notYet: 'Nothing has been learnt yet',
    none: 'none',
    percent,
    kinds: {torch: 'Computers (torch)', litert: 'Boards (LiteRT)', phone: 'Phones'},
  },

  // What can be wrong: title, and what to do.
  wrong: {
    noScan: ['Scan to join', 'Open the code that edgekit shows with your phone\'s camera: it lets one phone in.'],
    refused: (reason) => ['This code does not work', `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`],
    elsewhere: ['Open in another tab', 'edgekit is open in another tab or window of this phone. Close this one, or reload it to go on here.'],
    unclear: (reason) => ['The group did not understand this page', `${reason.charAt(0).toUpperCase()}${reason.slice(1)}. The page tries again in half a minute; reload it to try now.`],
    leaveOffline: ['You are offline', 'To leave, the group has to be told. Try again when the page is connected; until then, Pause stops the learning.'],
    leftUntold: ['You have left', 'The group could not be told in time and may still count this phone, but this phone has forgotten the group.'],
    deletedUntold: ['Everything on this phone is deleted', 'The group could not be told, and may still count this phone; it gets nothing from it any more.'],
    left: ['You have left', 'The group has forgotten this phone. Scan a new code to come back.'],
    deleted: ['Everything is deleted', 'Nothing is left of it on this phone. Scan a new code to begin anew.'],
    noWasm: ['This browser cannot learn', 'It has no WebAssembly, which the training needs. Any current Chrome, Firefox, Edge or Safari has it; a lockdown mode may have switched it off.'],
    noContext: ['This address is not secure', 'Browsers allow learning, microphone and sensors on https addresses only. Open the address that begins with https.'],
    noStore: ['Nothing can be kept here', 'This browser does not let the page keep anything, as in a private window. Open it in a normal window, so that spent privacy can be counted.'],
    full: ['The phone\'s storage is full', 'Examples and spent privacy cannot be kept, so nothing is learnt. Make some room, then reload.'],
    model: (reason) => ['This phone cannot run the network', `${reason}. You can still watch; a newer browser may help.`],
    activity: ['Nothing to do for phones', 'This group learns from data that a phone cannot make. You can watch how it gets on.'],
    permission: {
      speak: ['The microphone is off', 'The browser was told not to let this page listen. Allow it in the page\'s settings (the lock beside the address), then record again.'],
      move: ['The motion sensors are off', 'The browser does not give this page the phone\'s motion. Allow it in its settings, or use a device that has sensors.'],
    },
    silent: ['Nothing was heard', 'The recording is silent. Come closer to the microphone and try again.'],
    spent: ['Enough privacy is spent', 'This phone has spent what its owner\'s privacy allows. It learns no more from these examples; watching goes on.'],
  },
};
