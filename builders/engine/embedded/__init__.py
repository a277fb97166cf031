"""The embedded runtime: torch computes, from an export, what low precision computes."""
