"""The training step inside a .tflite: what lets a device without torch take part in a federation."""
