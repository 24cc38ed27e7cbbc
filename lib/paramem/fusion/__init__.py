"""What a model does with what it reads and what it was trained on, together: fusion in four scenarios."""
