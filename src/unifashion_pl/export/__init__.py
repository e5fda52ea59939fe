"""A model for the runtimes and libraries of others: graphs of its embeddings (ONNX, torch.export) with a report of what they lose, its LoRA for peft."""
