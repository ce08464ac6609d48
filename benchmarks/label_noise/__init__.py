"""Whether the estimated share of wrong labels is right: real data, whose labels are made wrong."""
