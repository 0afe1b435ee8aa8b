"""The library for a notebook: models by name, recordings in, embeddings and decisions out."""
