"""Detection, segmentation, retrieval and fine-grained training with the zoo's models."""
