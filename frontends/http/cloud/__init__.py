"""The doors of hosted services, Vertex AI and SageMaker: the HTTP door's handlers behind routes of theirs."""
