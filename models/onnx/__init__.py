"""Networks that came as ONNX: a graph of standard operators beside its tensors.

Uploads are read and checked by `checkpoints.reading`, which rewrites them; what stands in a
canonical file is described by `graph` and `operators`, and nothing else of an ONNX file is left.
`protobuf` writes the file that ONNX Runtime takes, and `session` runs it. Only `session` imports
torch and ONNX Runtime, and only children import `session`.
"""

ARCHITECTURE = "onnx"
"""What a manifest calls them; no name of the catalog, because nothing but a file makes one."""

INSTALL = "pip install 'holdout[onnx]' where the worker runs"

DISTRIBUTION = "onnxruntime"
"""What a worker needs to run them."""
