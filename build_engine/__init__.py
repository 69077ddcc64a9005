"""From a checkpoint to a release the room can load: export, verify, publish. Bench only: needs torch and onnx."""
