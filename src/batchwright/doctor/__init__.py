"""What is wrong with a training run: it is watched as it is, and what was seen is checked.

Its interface is the command `batchwright doctor`: what is in here may change.
"""
