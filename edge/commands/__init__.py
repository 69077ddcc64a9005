"""`landmarknet-edge`, command by command, by theme."""
