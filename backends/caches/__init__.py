"""Where answers are kept, each behind the engine's port for caches."""
