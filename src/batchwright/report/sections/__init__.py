"""Parts that pages share: each function makes a `Section` of facts. One part a file."""
