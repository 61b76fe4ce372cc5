"""Python models in processes of their own: a supervised child for each instance."""
