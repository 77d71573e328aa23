"""The encoder-decoder Transformer: its network, windows, training loop and ONNX graphs. Tensors only."""
