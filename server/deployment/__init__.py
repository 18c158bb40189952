"""What a federation of real devices runs on: the SuperLink, its gate, keys, enrolment, and who looks after them."""
