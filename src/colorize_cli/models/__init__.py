"""The three stages of ColTran as PyTorch modules."""
