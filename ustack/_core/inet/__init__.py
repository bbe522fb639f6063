"""The compiled modules of the room ``inet`` (sources in ``ext/inet``)."""
