"""Child processes: one finds landmarks, one reads files from outside; each can be ended and started anew."""
