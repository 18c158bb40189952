"""The main job, end to end, in `job`; and what is done with finished runs. Nothing is imported here: it is heavy."""
