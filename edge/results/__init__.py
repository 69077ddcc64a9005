"""What is written beside a portal image. The JSON document is last, and is the commit."""
