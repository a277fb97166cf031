"""The latency gate: traffic, its replay, and what it says of two servers' times."""
