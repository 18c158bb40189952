"""What a layer's row in a program says: places and sizes, all whole numbers, as the compiled steps read them.

Activations are kept as (batch, height, width, channels), channels filled up with zeros, around them the zeros that a
convolution pads with. Gradients are kept without these.
"""

CONVOLUTION, DEPTHWISE, MAXIMUM, AVERAGE, SUM, NORM = range(6)
"""Kinds of layers; a linear one is a convolution as large as what it takes."""

(
    KIND,
    X, X_BATCH, X_LINE, C, H, W, GX, GX_AGAIN,
    X2, X2_BATCH, X2_LINE, GX2, GX2_AGAIN,
    Y, Y_BATCH, Y_LINE, N, OH, OW, GY,
    KH, KW, SH, SW, PH, PW,
    ACT, MASKED, ACT_BEFORE,
    PLACES, OUTS, OFFSETS, TERMS, WEIGHT, BIAS, SEGMENTS, LENGTH, APART,
    BACK, D, D_BATCH, D_LINE, D_PLACES, D_LENGTH, D_APART, EH, EW, FLIPPED, GX_PLACES,
    GAIN, STANDARD, MOMENTS, LEARNT, GROUPS, EPS, REAL, OUTER,
    FIELDS,
) = range(59)  # fmt: skip
"""Of a row. X, Y: place of the first pixel of what goes in and comes out; *_BATCH, *_LINE: floats to the next example
and line; C, N: channels with their filling; G*: the gradients' places, -1 for none; *_AGAIN: whether another layer has
written there; ACT: 0 none, 1 ReLU, 2 ReLU6; MASKED: whether what follows takes care of its gradient; PLACES, OUTS:
tables of a convolution's rows; BACK: how its input's gradient is made; GAIN: a norm's, or of standardised weights,
which lie at STANDARD in the room, -1 for plain ones; MOMENTS, LEARNT: room of either; GROUPS: of a norm; EPS: place
in the numbers; REAL: channels without their filling; OUTER: whether one example's gradient is a product of two vectors.
"""

NOT, BY_PRODUCT, BY_DOTS = range(3)
"""Values of BACK."""
