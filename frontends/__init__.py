"""One folder per door into the engine. Doors differ in framing only; meaning lives in `schema` and `engine`."""
