"""The embedded runtime: torch computes, from an exported checkpoint, what low precision computes."""
