"""An archive of portal images processed again by many workers: once each, resumable, on Dask distributed."""
