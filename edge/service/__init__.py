"""The service: what it sees of drop folders, what it remembers, what it tells, and how it is installed."""
