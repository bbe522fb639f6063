"""The compiled modules of the room ``py`` (sources in ``ext/py``)."""
