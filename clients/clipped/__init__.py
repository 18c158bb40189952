"""Clipped sums of single examples' gradients in passes over the batch, where all examples share one set of weights."""
