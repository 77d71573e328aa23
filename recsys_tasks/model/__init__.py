"""The encoder-decoder Transformer: network, training windows, training loop and ONNX export. Works on tensors only."""
