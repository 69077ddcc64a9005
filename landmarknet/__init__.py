"""The network, its training data and its training. Bench only: needs torch."""
