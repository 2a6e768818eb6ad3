"""What every model stands on: registration, training, the model file, and the classifier's answers."""
