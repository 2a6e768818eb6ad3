"""Base classes of all models: registration, training, model files, annotation."""
