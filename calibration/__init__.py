"""Calibration sets for INT8 engines, and the ranges of activations over them. Bench only: needs onnx."""
