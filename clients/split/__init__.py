"""Split learning on the client's side: the device trains the first part of a network, and mostly the last."""
