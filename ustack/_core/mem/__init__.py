"""The compiled modules of the room ``mem`` (sources in ``ext/mem``)."""
