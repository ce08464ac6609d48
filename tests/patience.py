"""How long tests wait for processes: so long that only one that hangs is given up."""

PATIENCE = 1_200.0
"""Seconds. A machine may be slow, and others may keep it busy: no wait of a test is shorter."""
