"""Ensembles: versions that answer requests by asking other models. Pure are graph, fit, plan and sequences."""
