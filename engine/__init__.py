"""Running: networks, bundles, the pipeline's stages, jobs.

Importing this package imports no network framework, so that parts which need none stay quick to start.
"""
