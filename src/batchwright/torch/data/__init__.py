"""Plans in a `DataLoader`: samplers, collators, streams, and what the rows of a batch are."""
