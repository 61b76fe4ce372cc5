"""What the server does with a model configuration before it serves the model: complete, normalise, validate. Pure
functions over the generated `ModelConfig`; none changes its argument. The API is `schema/model_config.py`."""
