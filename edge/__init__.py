"""The room: from a portal image file to landmarks beside it. Imports neither torch nor onnx."""

__version__ = "0.1.0"
