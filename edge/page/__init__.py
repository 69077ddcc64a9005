"""The page people look at: what a room's service did, read from its journal and its results. It changes nothing."""
