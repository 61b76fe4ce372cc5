"""`despina check`: every fault of a model repository at once, without a server.

repository.py ── each directory ─▶ model.py ── configuration ▶ versions ▶ backend ▶ the model's own files
       └──────── ensembles, once their models are known
finding.py   what was found, where, and what mends it          place.py   where in a config.pbtxt a fault belongs
"""
