"""What README and the documentation quote: a function for each block, from its facts."""
