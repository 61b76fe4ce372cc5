"""Actors and policies: models, queues, instances, the repository. Knows neither networks nor ML frameworks."""
