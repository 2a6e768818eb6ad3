"""What every model stands on: registration, training, the model file, the classifier's answers."""
