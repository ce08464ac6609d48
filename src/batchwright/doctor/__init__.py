"""What is wrong with a training run: it is watched unchanged, and what was seen is checked.

Use it by the command `batchwright doctor`: the modules here may change.
"""
