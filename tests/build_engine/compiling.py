"""What tests of compilers share."""

import tensorrt_rtx_bindings

from build_engine.compiled import CompileSettings
from edge.backends.cuda import device_facts
from edge.errors import BackendFailed

RTX = CompileSettings(flavour="tensorrt_rtx")
CPU = CompileSettings()


def gpu():
    try:
        return device_facts()
    except BackendFailed:
        return None


def parsed(graph):
    """Return the network as TensorRT-RTX understands a graph, and what must outlive it."""
    logger = tensorrt_rtx_bindings.Logger(tensorrt_rtx_bindings.Logger.INTERNAL_ERROR)
    builder = tensorrt_rtx_bindings.Builder(logger)
    network = builder.create_network()
    parser = tensorrt_rtx_bindings.OnnxParser(network, logger)
    assert parser.parse(graph)
    return network, (builder, logger, parser)
