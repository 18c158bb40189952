"""What device and server have in common in split learning: codecs, messages, lines, parts in training."""
