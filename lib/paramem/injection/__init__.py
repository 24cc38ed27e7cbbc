"""Teaching a trained model facts that it has not seen: by further training, or as weights that are added."""
